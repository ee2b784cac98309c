//! Processors, profiles, detection, machines, links and what work costs on them.
//!
//! This crate knows numbers, not operators and not graphs: work arrives as FLOPs and bytes, time leaves as
//! microseconds. Every figure carries its origin (a profile, a formula, a default, a measurement), and a figure
//! nobody published stays unknown instead of becoming zero.

mod adapter;
mod cache;
mod collective;
mod cost;
mod cost_fit;
mod cost_table;
mod cpu;
mod defaults;
mod detect;
mod device;
mod edit;
mod error;
mod fabric;
mod fact;
mod interconnect;
mod isa;
mod kind;
mod listing;
mod machine;
mod machine_file;
mod machine_text;
mod nearest;
mod placed;
mod precision;
mod probe;
mod profile;
mod profile_file;
mod query;
mod reader;
mod report;
mod route;

pub use adapter::{AdapterInfo, AdapterType, profile_for_adapter};
pub use cache::DetectionCache;
pub use collective::{Algorithm, Collective, Exchange, Group, hierarchical_all_reduce};
pub use cost::{Bound, Estimate, Work, WorkKind, estimate, tile_rows, transfer_us};
pub use cost_fit::Fit;
pub use cost_table::{CostTable, Measurement, price};
pub use cpu::{Cache, CacheKind, CpuInfo, NumaNode, detect_cpu};
pub use defaults::{CACHE_OVER_MEMORY, COPY_COMMAND_US};
pub use device::{AdapterRef, Device, Driver, Rate};
pub use edit::Edit;
pub use error::{Code, HwError};
pub use fabric::{Fabric, MAX_FABRICS, Topology};
pub use fact::Fact;
pub use interconnect::{Interconnect, Interconnects};
pub use kind::Kind;
pub use listing::{Column, Filter, Row, USUAL_COLUMNS, sort_rows, tab_separated, table};
pub use machine::{Link, MAX_DEVICES, MAX_LINKS, Machine};
pub use precision::{Precision, Rates};
pub use probe::{
    COMMON, Cloud, CxlMemory, Detection, Environment, FabricPort, Found, Host, Kubernetes, MAX_OUTPUT_BYTES,
    MAX_RECORDING_BYTES, PROBE_LIMIT, PROBES, PcieLink, PeerLink, Probe, Root, Selection, Storage, System,
    TOOL_LIMIT, Timing, Tools, Warning, WarningKind, detect, nvidia_smi_devices,
};
pub use profile::{Extra, Profile, ProfileLink, ProfileMemory, Profiles, Provenance, Sparsity};
pub use query::{Need, Totals};
pub use reader::MAX_FILE_BYTES;
pub use report::{DEVICE_REPORT_SCHEMA, DeviceReport};
pub use route::Path;
