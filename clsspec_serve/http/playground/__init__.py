"""The page at `/`: a photograph goes in, and what the model finds in it is shown beside it.

Plain HTML, CSS and JavaScript modules, without a build and without anything from elsewhere.
`page.js` puts the modules together: `server.js` asks the server, `panels.js` shows the answer,
`patches.js`, `png.js` and `paint.js` compute what it shows, and `calls.js` writes the same requests
for a shell and for Python. `colours.js` is made by `router.py` of the package's own colour maps.
"""
