"""A model in the browser: WebAssembly, the modules of the npm package, one page of HTML."""
