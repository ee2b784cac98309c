//! Processors, profiles, detection, machines, links and what work costs on them.
