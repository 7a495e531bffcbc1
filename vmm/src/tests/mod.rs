//! [`crate::Machine`] driven through every exit by a scripted virtual CPU.
