//! Ordered, compensated sums.
