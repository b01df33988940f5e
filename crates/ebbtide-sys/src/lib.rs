//! Ebbtide system calls.
