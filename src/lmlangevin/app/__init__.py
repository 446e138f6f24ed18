"""The page of `lml app`: plain and LML images of the same seeds, side by side.

`page` and `server` alone need gradio. What they show and how it is made (`settings`, `runs`, `plot`, `bundle`, `words`)
is in modules that do not, so that it can be tested and used without a browser.
"""
