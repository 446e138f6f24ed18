"""`lml bench`: declared benchmarks, their results as files, and the page that is made from them."""
