"""The demo: a page on which one draws, and the server on this machine that shows what the network makes of it.

`server` starts it, `app` is its interface, `page/` its page. `network` computes every layer, `units` explains one unit,
`attention` shows what a class depends on, `gallery` reads test images.
"""
