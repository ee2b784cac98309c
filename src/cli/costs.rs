//! Cost files: where they lie, and whether one is of the machine at hand.

use crate::error::{Error, Result};
use partita_hw::{CostTable, Driver, Machine};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the cost file of the running machine lies: `partita/costs.toml` in the user's cache folder.
pub(super) fn default_path() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")))?;
    Some(folder.join("partita").join("costs.toml"))
}

/// Reads a cost file.
fn read(path: &Path) -> Result<Arc<CostTable>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, &e))?;
    Ok(Arc::new(CostTable::parse(&path.display().to_string(), &text)?))
}

/// Reads a cost file that was named.
///
/// # Errors
/// `M021` when it was measured on another processor; what is wrong with the file.
pub(super) fn read_for(path: &Path, machine: &Machine) -> Result<Arc<CostTable>> {
    let costs = read(path)?;
    if fits(&costs, machine) {
        return Ok(costs);
    }
    let processor = costs.processor.as_deref().unwrap_or_default();
    let message = format!("the costs are those of {processor}, which the machine does not have");
    Err(Error::new("M021", message, "run partita calibrate on the machine").in_file(path))
}

/// Reads the cost file of the running machine, unless the processor has changed since.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn read_own(path: &Path, machine: &Machine) -> Result<Option<Arc<CostTable>>> {
    Ok(Some(read(path)?).filter(|costs| fits(costs, machine)))
}

/// Writes a cost file beside which nobody sees half of it.
pub(super) fn write(costs: &CostTable, path: &Path) -> Result<()> {
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, &e))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| Error::io("create", folder, &e))?;
    std::io::Write::write_all(&mut file, costs.to_toml().as_bytes())
        .map_err(|e| Error::io("write", path, &e))?;
    file.persist(path).map_err(|e| Error::io("write", path, &e.error))?;
    Ok(())
}

/// The file that was named, or the default one.
///
/// # Errors
/// `M023` when no folder is known for it.
pub(super) fn path_or_default(named: Option<&Path>) -> Result<PathBuf> {
    let path = named.map(Path::to_path_buf).or_else(default_path);
    path.ok_or_else(|| {
        Error::new("M023", "no cache folder is known", "name a file with -o FILE or --costs FILE")
    })
}

fn fits(costs: &CostTable, machine: &Machine) -> bool {
    let cpus = || machine.devices.iter().filter(|d| d.driver == Driver::Cpu);
    costs.processor.is_none() || cpus().any(|d| d.title == costs.processor)
}
