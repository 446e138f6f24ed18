"""Presets for the experiments of arXiv:2505.24222: what each needs, a check of it, the run, the measure, the table.

Settings are those of the paper's public release, of which no code is here. Nothing claims to reproduce a published
number: the prompts, the reference statistics and the base of the paper's log FID are not public.
"""
