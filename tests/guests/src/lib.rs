//! Odd and hostile guests, and the tests that run them.
