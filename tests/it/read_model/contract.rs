//! What every cache keeps to, wherever it is.
