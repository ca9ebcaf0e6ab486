"""Makes the embedded guard in guardhouse/assets/tiny. Imports guardhouse; is never imported by it."""
