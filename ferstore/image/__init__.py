"""One image as bytes: where it lies, how it is fetched, how it is decoded and compared."""
