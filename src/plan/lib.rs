//! The static execution plan as messages: encode, bounded decode, check, text.
