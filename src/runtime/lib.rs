//! Plan to session: arenas, queues, events, drivers, trace.
