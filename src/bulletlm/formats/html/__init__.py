"""A model as one HTML file that runs it in the browser, and the same engine as a JavaScript library."""
