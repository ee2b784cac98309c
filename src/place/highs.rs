//! HiGHS loaded at run time: fourteen functions of its C interface, nothing linked, absence is a sentence.
//!
//! Looked for at the path in `PARTITA_HIGHS`, then under the usual shared-library names. Limits are node counts
//! and one thread unless asked, so that the same library gives the same answer.
#![allow(unsafe_code, reason = "foreign functions of a shared library; each call states why it is sound")]

use crate::milp::{Milp, MilpAnswer, MilpLimits, MilpStatus};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_double, c_int, c_void};
use std::ptr::null;

/// Environment variable with the path of the library.
pub const PATH_VARIABLE: &str = "PARTITA_HIGHS";
/// Names tried after that.
const NAMES: [&str; 4] = ["libhighs.so.1", "libhighs.so", "libhighs.dylib", "highs.dll"];

type Model = *mut c_void;
type SetInt = unsafe extern "C" fn(Model, *const c_char, c_int) -> c_int;
type SetDouble = unsafe extern "C" fn(Model, *const c_char, c_double) -> c_int;
type GetDouble = unsafe extern "C" fn(Model, *const c_char, *mut c_double) -> c_int;
type GetInt = unsafe extern "C" fn(Model, *const c_char, *mut c_int) -> c_int;
type GetInt64 = unsafe extern "C" fn(Model, *const c_char, *mut i64) -> c_int;
type Vectors =
    unsafe extern "C" fn(Model, *mut c_double, *mut c_double, *mut c_double, *mut c_double) -> c_int;
type PassMip = unsafe extern "C" fn(
    Model,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    c_double,
    *const c_double,
    *const c_double,
    *const c_double,
    *const c_double,
    *const c_double,
    *const c_int,
    *const c_int,
    *const c_double,
    *const c_int,
) -> c_int;
type SetSolution =
    unsafe extern "C" fn(Model, *const c_double, *const c_double, *const c_double, *const c_double) -> c_int;

/// The functions used, kept beside the library that holds them.
#[derive(Debug)]
pub struct Highs {
    create: unsafe extern "C" fn() -> Model,
    destroy: unsafe extern "C" fn(Model),
    run: unsafe extern "C" fn(Model) -> c_int,
    status: unsafe extern "C" fn(Model) -> c_int,
    pass_mip: PassMip,
    set_solution: SetSolution,
    get_solution: Vectors,
    set_bool: SetInt,
    set_int: SetInt,
    set_double: SetDouble,
    get_int: GetInt,
    get_int64: GetInt64,
    get_double: GetDouble,
    version: String,
    _library: Library,
}

impl Highs {
    /// Loads the library.
    ///
    /// # Errors
    /// A sentence for people when no library is found or it lacks a function.
    pub fn load() -> Result<Highs, String> {
        let named = std::env::var(PATH_VARIABLE).ok().filter(|p| !p.is_empty());
        let names: Vec<String> = named.into_iter().chain(NAMES.map(String::from)).collect();
        for name in &names {
            // SAFETY: the library is HiGHS by name or by the user's word; its initialisers have no requirements.
            if let Ok(library) = unsafe { Library::new(name) } {
                return Highs::bind(library).map_err(|e| format!("{name} is not a usable HiGHS: {e}."));
            }
        }
        Err(format!("No HiGHS library was found (set {PATH_VARIABLE} to one)."))
    }

    fn bind(library: Library) -> Result<Highs, String> {
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the types above are those of highs_c_api.h with 32-bit HighsInt, checked below.
                unsafe { *library.get($name).map_err(|e| e.to_string())? }
            };
        }
        let version: unsafe extern "C" fn() -> *const c_char = function!(b"Highs_version\0");
        let size: unsafe extern "C" fn(Model) -> c_int = function!(b"Highs_getSizeofHighsInt\0");
        // SAFETY: takes no model, returns a static C string; the size function ignores its argument.
        let (text, int_bytes) = unsafe { (CStr::from_ptr(version()), size(std::ptr::null_mut())) };
        if int_bytes != 4 {
            return Err("it is built with 64-bit integers".into());
        }
        Ok(Highs {
            create: function!(b"Highs_create\0"),
            destroy: function!(b"Highs_destroy\0"),
            run: function!(b"Highs_run\0"),
            status: function!(b"Highs_getModelStatus\0"),
            pass_mip: function!(b"Highs_passMip\0"),
            set_solution: function!(b"Highs_setSolution\0"),
            get_solution: function!(b"Highs_getSolution\0"),
            set_bool: function!(b"Highs_setBoolOptionValue\0"),
            set_int: function!(b"Highs_setIntOptionValue\0"),
            set_double: function!(b"Highs_setDoubleOptionValue\0"),
            get_int: function!(b"Highs_getIntInfoValue\0"),
            get_int64: function!(b"Highs_getInt64InfoValue\0"),
            get_double: function!(b"Highs_getDoubleInfoValue\0"),
            version: text.to_string_lossy().into_owned(),
            _library: library,
        })
    }

    /// The library's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Solves a program within a node limit.
    pub fn solve(&self, milp: &Milp, limits: &MilpLimits) -> MilpAnswer {
        // SAFETY: creates a model that only this call sees; destroyed below on every way out.
        let model = unsafe { (self.create)() };
        let answer = self.solve_in(model, milp, limits).unwrap_or_else(failed);
        // SAFETY: `model` came from create and is not used again.
        unsafe { (self.destroy)(model) };
        answer
    }

    fn solve_in(&self, model: Model, milp: &Milp, limits: &MilpLimits) -> Option<MilpAnswer> {
        self.options(model, limits)?;
        self.pass(model, milp)?;
        // SAFETY: the model is complete.
        let (ran, status) = unsafe { ((self.run)(model), (self.status)(model)) };
        if ran < 0 {
            return None;
        }
        let feasible = self.int_info(model, "primal_solution_status")? == 2;
        let values = if feasible { Some(self.solution(model, milp)?) } else { None };
        let bound = self.double_info(model, "mip_dual_bound").unwrap_or(f64::NEG_INFINITY);
        let nodes = self.int64_info(model, "mip_node_count").unwrap_or(0).max(0) as u64;
        let status = match status {
            7 => MilpStatus::Optimal,
            8 | 9 => MilpStatus::Infeasible,
            14 | 16 => MilpStatus::Limit,
            _ => MilpStatus::Failed,
        };
        let bound = if bound.is_nan() { f64::NEG_INFINITY } else { bound };
        Some(MilpAnswer { status, values, bound, nodes })
    }

    fn options(&self, model: Model, limits: &MilpLimits) -> Option<()> {
        let nodes = c_int::try_from(limits.nodes).unwrap_or(c_int::MAX);
        let threads = c_int::try_from(limits.threads.max(1)).unwrap_or(1);
        // SAFETY: the name is a C string that outlives the call.
        unsafe { (self.set_bool)(model, c"output_flag".as_ptr(), 0) };
        for (name, value) in [("threads", threads), ("mip_max_nodes", nodes), ("random_seed", 0)] {
            let name = CString::new(name).ok()?;
            // SAFETY: as above.
            unsafe { (self.set_int)(model, name.as_ptr(), value) };
        }
        for (name, value) in [("mip_rel_gap", 0.0), ("mip_abs_gap", 1e-9)] {
            let name = CString::new(name).ok()?;
            // SAFETY: as above.
            unsafe { (self.set_double)(model, name.as_ptr(), value) };
        }
        Some(())
    }

    fn pass(&self, model: Model, milp: &Milp) -> Option<()> {
        let column = |f: fn(&crate::milp::Column) -> f64| milp.columns.iter().map(f).collect::<Vec<f64>>();
        let (cost, lower, upper) = (column(|c| c.cost), column(|c| c.lower), column(|c| c.upper));
        let kind: Vec<c_int> = milp.columns.iter().map(|c| c_int::from(c.integer)).collect();
        let row_lower: Vec<f64> = milp.rows.iter().map(|r| r.lower).collect();
        let row_upper: Vec<f64> = milp.rows.iter().map(|r| r.upper).collect();
        let (mut start, mut index, mut value) = (Vec::new(), Vec::new(), Vec::new());
        for row in &milp.rows {
            start.push(c_int::try_from(index.len()).ok()?);
            for &(c, v) in &row.terms {
                index.push(c_int::try_from(c).ok()?);
                value.push(v);
            }
        }
        let n_columns = c_int::try_from(cost.len()).ok()?;
        let (n_rows, n_terms) = (c_int::try_from(start.len()).ok()?, c_int::try_from(index.len()).ok()?);
        start.push(n_terms);
        // SAFETY: every pointer is to a vector of the length told (row-wise format 2, minimise 1); copied inside.
        let passed = unsafe {
            (self.pass_mip)(
                model,
                n_columns,
                n_rows,
                n_terms,
                2,
                1,
                0.0,
                cost.as_ptr(),
                lower.as_ptr(),
                upper.as_ptr(),
                row_lower.as_ptr(),
                row_upper.as_ptr(),
                start.as_ptr(),
                index.as_ptr(),
                value.as_ptr(),
                kind.as_ptr(),
            )
        };
        if let Some(values) = milp.start.as_ref().filter(|v| v.len() == milp.columns.len()) {
            // SAFETY: the column values have one entry per column; the others are absent.
            unsafe { (self.set_solution)(model, values.as_ptr(), null(), null(), null()) };
        }
        (passed >= 0).then_some(())
    }

    fn solution(&self, model: Model, milp: &Milp) -> Option<Vec<f64>> {
        let (mut values, mut duals) = (vec![0.0; milp.columns.len()], vec![0.0; milp.columns.len()]);
        let (mut rows, mut row_duals) = (vec![0.0; milp.rows.len()], vec![0.0; milp.rows.len()]);
        // SAFETY: four buffers of the model's own sizes.
        let got = unsafe {
            (self.get_solution)(
                model,
                values.as_mut_ptr(),
                duals.as_mut_ptr(),
                rows.as_mut_ptr(),
                row_duals.as_mut_ptr(),
            )
        };
        (got >= 0).then_some(values)
    }

    fn int_info(&self, model: Model, name: &str) -> Option<c_int> {
        let (name, mut value) = (CString::new(name).ok()?, 0);
        // SAFETY: the name is a C string and `value` has the type this info has.
        (unsafe { (self.get_int)(model, name.as_ptr(), &raw mut value) } >= 0).then_some(value)
    }

    fn int64_info(&self, model: Model, name: &str) -> Option<i64> {
        let (name, mut value) = (CString::new(name).ok()?, 0);
        // SAFETY: as above.
        (unsafe { (self.get_int64)(model, name.as_ptr(), &raw mut value) } >= 0).then_some(value)
    }

    fn double_info(&self, model: Model, name: &str) -> Option<f64> {
        let (name, mut value) = (CString::new(name).ok()?, 0.0);
        // SAFETY: as above.
        (unsafe { (self.get_double)(model, name.as_ptr(), &raw mut value) } >= 0).then_some(value)
    }
}

fn failed() -> MilpAnswer {
    MilpAnswer { status: MilpStatus::Failed, values: None, bound: f64::NEG_INFINITY, nodes: 0 }
}
