//! Redis slow, down, emptied, older than it was: checks go on and are right.
