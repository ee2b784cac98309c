//! Scan as it was in opset 8: over a batch. It becomes a scan over the batch whose body is a scan of one sequence.

use crate::bodies::{Around, Formals, Site, without_axis};
use crate::call::Call;
use crate::importer::{AttrMap, Importer, Level, Scope};
use partita_ir::attr::Body;
use partita_ir::graph::MAX_BODY_DEPTH;
use partita_ir::op::CAPTURES;
use partita_ir::{Attr, Diag, Graph, Type, ValueId};
use std::sync::Arc;

/// Opset of the scans that are made.
const SCAN_OPSET: i64 = 9;

impl Importer<'_> {
    /// The values of a batched scan; none when something in its body failed, which is reported.
    ///
    /// # Errors
    /// `U001` for sequences of different lengths (what lies behind their ends is not defined), and what is wrong
    /// with the node.
    pub(crate) fn batched_scan(
        &mut self,
        site: &Site,
        mut call: Call,
    ) -> Result<Option<(Call, usize)>, Diag> {
        if call.input(0).is_some() {
            return Err(Diag::new("U001", "Scan of opset 8 with lengths of sequences is not supported")
                .hint("convert the model to opset 9 or newer"));
        }
        if !call.inputs.is_empty() {
            call.inputs.remove(0);
        }
        let n_scanned = call.int("num_scan_inputs").and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let rows: Vec<Type> = self.operand_types(&call, 0)?.iter().map(|ty| without_axis(ty, 0)).collect();
        let Some(n_states) = rows.len().checked_sub(n_scanned).filter(|_| n_scanned > 0) else {
            let text = format!("num_scan_inputs is {n_scanned}, the node has {} operands", rows.len());
            return Err(Diag::new("I019", text).hint("the model is damaged; export it again"));
        };
        let formals = Formals {
            before: Vec::new(),
            carried: rows[..n_states].to_vec(),
            after: rows[n_states..].iter().map(|ty| without_axis(ty, 0)).collect(),
            skip: 0,
        };
        // The scan of one sequence lies one deeper than the node.
        let lead = self.level.emit.new_lead(&format!("{}.sequence", call.name));
        let inner = Site { lead, ..*site };
        if self.level.depth + 2 > MAX_BODY_DEPTH {
            return Err(Diag::new("I006", "bodies nest too deep").hint("flatten nested If and Loop bodies"));
        }
        let Some(body) = self.settled(&inner, formals)? else { return Ok(None) };
        let n_results = body.outputs().count();
        let mut attrs = AttrMap::from([
            ("body".to_owned(), Attr::Graph(Body(body))),
            ("num_scan_inputs".to_owned(), Attr::Int(n_scanned as i64)),
        ]);
        if let Some(directions) = call.attrs.remove("directions") {
            attrs.insert("scan_input_directions".to_owned(), directions);
        }
        let outer = self.one_sequence(site, &rows, attrs, n_results)?;
        call.attrs.insert("body".to_owned(), Attr::Graph(Body(Arc::new(outer))));
        call.attrs.insert("num_scan_inputs".to_owned(), Attr::Int(rows.len() as i64));
        call.version = SCAN_OPSET;
        Ok(Some((call, n_results)))
    }

    /// The body that scans one sequence.
    fn one_sequence(
        &mut self,
        site: &Site,
        rows: &[Type],
        mut attrs: AttrMap,
        n_results: usize,
    ) -> Result<Graph, Diag> {
        let emit = self.level.emit.body("sequence", &site.lead);
        let level = Level { emit, scopes: vec![Scope::new(), Scope::new()], depth: self.level.depth + 1 };
        let outer = std::mem::replace(&mut self.level, level);
        let emit = &mut self.level.emit;
        let mut inputs: Vec<Option<ValueId>> = Vec::new();
        for (n, ty) in rows.iter().enumerate() {
            let name = emit.fresh(&format!("row{n}"));
            inputs.push(Some(emit.builder.input(&name, ty.clone())));
        }
        let Around { values, .. } = site.around;
        for (name, _, ty) in values {
            let name = emit.named(name);
            inputs.push(Some(emit.builder.input(&name, ty.clone())));
        }
        if !values.is_empty() {
            attrs.insert(CAPTURES.to_owned(), Attr::Int(values.len() as i64));
        }
        let outputs: Vec<String> = (0..n_results).map(|n| emit.fresh(&format!("result{n}"))).collect();
        let name = emit.fresh("scan");
        let op_type = "Scan".to_owned();
        let made =
            emit.call(Call { name, op_type, version: SCAN_OPSET, inputs, attrs, outputs, ..Call::default() });
        let made = made.map(|values| {
            for (n, value) in values.into_iter().enumerate() {
                let name = emit.output_name(&format!("output{n}"));
                emit.builder.output(&name, value);
            }
        });
        let inner = std::mem::replace(&mut self.level, outer);
        made.map(|()| inner.emit.builder.finish())
    }
}
