//! The text form of graphs (see TEXT.md).
