"""The HTTP server: `clsspec serve`.

`app` puts it together and `server` runs it. A request goes through `observation` (its id, its
times, its line in the log) and `keys`, then a route: `intake` makes pictures of its body, `service`
(outside of this package) finds what is asked for in them, and `answers` makes a body of that.
"""
