//! Reference architectures as graph builders at Tiny, Small and Full size.
