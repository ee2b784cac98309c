//! Text to graph: recursive descent over tokens, types inferred as it goes.

use super::lex::{Tok, Token, lex};
use super::literal::{self, Number};
use super::{MAX_CONST_ELEMENTS, MAX_MADE_BYTES, MAX_NESTING, MAX_TEXT_BYTES};
use crate::attr::{Attr, Attrs, Body};
use crate::builder::Builder;
use crate::diag::Diag;
use crate::graph::MAX_BODY_DEPTH;
use crate::op::{AttrKind, OpRef, Registry, SIZES};
use crate::tensor::{Bytes, n_elements};
use crate::{DType, Dim, Graph, Tensor, Type, ValueId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Finds the bytes of a file that a constant names; the sentence says why it cannot.
pub type FileResolver<'a> = &'a dyn Fn(&str) -> Result<Bytes, String>;

/// A resolver for texts that must not name files.
///
/// # Errors
/// Always.
pub fn no_files(_: &str) -> Result<Bytes, String> {
    Err("files are not allowed here".to_owned())
}

/// Reads all graphs of `text`.
///
/// # Errors
/// The first thing that is wrong, with line and column.
pub fn parse(text: &str, registry: &Registry, files: FileResolver) -> Result<Vec<Graph>, Diag> {
    parse_within(text, registry, files, MAX_MADE_BYTES)
}

/// Reads all graphs of `text`, in which `splat`, `random` and `iota` may make constants of `max_bytes` together.
///
/// # Errors
/// The first thing that is wrong, with line and column.
pub fn parse_within(
    text: &str,
    registry: &Registry,
    files: FileResolver,
    max_bytes: usize,
) -> Result<Vec<Graph>, Diag> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(Diag::new(
            "T004",
            format!("the text is longer than the limit of {MAX_TEXT_BYTES} bytes"),
        ));
    }
    let mut parser = Parser { tokens: lex(text)?, at: 0, registry, files, depth: 0, made_bytes: max_bytes };
    let mut graphs = Vec::new();
    while parser.peek() != &Tok::End {
        graphs.push(parser.graph()?);
    }
    Ok(graphs)
}

/// Reads one type.
///
/// # Errors
/// What is wrong with it.
pub fn parse_type(text: &str) -> Result<Type, Diag> {
    let registry = Registry::new(&[]);
    let mut parser =
        Parser { tokens: lex(text)?, at: 0, registry: &registry, files: &no_files, depth: 0, made_bytes: 0 };
    let ty = parser.ty()?;
    if parser.peek() == &Tok::End { Ok(ty) } else { Err(parser.error("T017", "more than a type")) }
}

struct Parser<'a> {
    tokens: Vec<Token>,
    at: usize,
    registry: &'a Registry,
    files: FileResolver<'a>,
    /// How many bodies the parser is inside.
    depth: usize,
    /// What is left for constants that a few words make large.
    made_bytes: usize,
}

type Names = BTreeMap<String, ValueId>;

impl Parser<'_> {
    fn peek(&self) -> &Tok {
        &self.tokens[self.at].tok
    }

    fn next(&mut self) -> Tok {
        let tok = self.peek().clone();
        if tok != Tok::End {
            self.at += 1;
        }
        tok
    }

    fn error(&self, code: &'static str, message: impl Into<String>) -> Diag {
        let token = &self.tokens[self.at];
        Diag::new(code, message).at_line(token.line, token.column)
    }

    fn here(&self) -> (usize, usize) {
        (self.tokens[self.at].line, self.tokens[self.at].column)
    }

    fn is(&self, punct: &str) -> bool {
        matches!(self.peek(), Tok::Punct(p) if *p == punct)
    }

    fn eat(&mut self, punct: &str) -> bool {
        let found = self.is(punct);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, punct: &str) -> Result<(), Diag> {
        if self.eat(punct) { Ok(()) } else { Err(self.error("T010", format!("expected {punct:?}"))) }
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Tok::Ident(w) if w == word)
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    fn name(&mut self) -> Result<String, Diag> {
        match self.peek().clone() {
            Tok::Ident(name) | Tok::Str(name) => {
                self.at += 1;
                Ok(name)
            }
            Tok::Int(n) if n >= 0 => {
                self.at += 1;
                Ok(n.to_string())
            }
            _ => Err(self.error("T011", "expected a name").hint("quote names that are not identifiers")),
        }
    }

    fn string(&mut self) -> Result<String, Diag> {
        match self.next() {
            Tok::Str(s) => Ok(s),
            _ => Err(self.error("T012", "expected a string")),
        }
    }

    fn int(&mut self) -> Result<i64, Diag> {
        match self.next() {
            Tok::Int(n) => Ok(n),
            _ => Err(self.error("T013", "expected an integer")),
        }
    }

    /// Items between `open` and `close`, separated by commas; a comma at the end is allowed.
    fn list<T>(
        &mut self,
        open: &str,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<T, Diag>,
    ) -> Result<Vec<T>, Diag> {
        self.expect(open)?;
        let mut items = Vec::new();
        while !self.eat(close) {
            items.push(item(self)?);
            if !self.eat(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(items)
    }

    /// A graph inside an attribute.
    fn body(&mut self) -> Result<Graph, Diag> {
        if self.depth >= MAX_BODY_DEPTH {
            return Err(self.error("T029", format!("bodies nest more than {MAX_BODY_DEPTH} deep")));
        }
        self.depth += 1;
        let graph = self.graph();
        self.depth -= 1;
        graph
    }

    fn graph(&mut self) -> Result<Graph, Diag> {
        if !self.eat_word("graph") {
            return Err(self
                .error("T014", "expected `graph`")
                .hint("a file is a list of graph NAME(...) -> (...) {...}"));
        }
        let mut builder = Builder::new(self.name()?);
        let mut names = Names::new();
        self.list("(", ")", |p| p.param(&mut builder, &mut names))?;
        self.expect("->")?;
        let outputs = self.list("(", ")", Self::output)?;
        self.expect("{")?;
        while !self.eat("}") {
            self.statement(&mut builder, &mut names)?;
        }
        for (name, value, (line, column)) in outputs {
            let id = *names.get(&value).ok_or_else(|| undefined(&value, &names).at_line(line, column))?;
            builder.output(&name, id);
        }
        Ok(builder.finish())
    }

    fn param(&mut self, builder: &mut Builder, names: &mut Names) -> Result<(), Diag> {
        let name = self.fresh(names)?;
        self.expect(":")?;
        let ty = self.ty()?;
        names.insert(name.clone(), builder.input(&name, ty));
        Ok(())
    }

    fn output(&mut self) -> Result<(String, String, (usize, usize)), Diag> {
        let renamed = match self.peek().clone() {
            Tok::Str(name) => {
                self.at += 1;
                self.expect("=")?;
                Some(name)
            }
            _ => None,
        };
        let place = self.here();
        let value = self.value()?;
        Ok((renamed.unwrap_or_else(|| value.clone()), value, place))
    }

    fn value(&mut self) -> Result<String, Diag> {
        self.expect("%").map_err(|d| d.hint("values are written %name"))?;
        self.name()
    }

    /// A value name that is not taken yet.
    fn fresh(&mut self, names: &Names) -> Result<String, Diag> {
        let place = self.here();
        let name = self.value()?;
        if names.contains_key(&name) {
            let diag =
                Diag::new("T015", format!("%{name} is defined twice")).hint("every value has one definition");
            return Err(diag.at_line(place.0, place.1));
        }
        Ok(name)
    }

    fn statement(&mut self, builder: &mut Builder, names: &mut Names) -> Result<(), Diag> {
        if self.eat_word("const") {
            let name = self.fresh(names)?;
            self.expect(":")?;
            let ty = self.ty()?;
            self.expect("=")?;
            let tensor = self.literal(&ty)?;
            names.insert(name.clone(), builder.constant(&name, tensor));
            return Ok(());
        }
        let mut results = vec![self.fresh(names)?];
        while self.eat(",") {
            results.push(self.fresh(names)?);
        }
        self.expect("=")?;
        self.node(builder, names, &results)
    }

    fn node(&mut self, builder: &mut Builder, names: &mut Names, results: &[String]) -> Result<(), Diag> {
        let (line, column) = self.here();
        let op = self.op()?;
        let mut operands = Vec::new();
        if self.is("%") || self.is_word("_") {
            operands.push(self.operand(names)?);
            while self.eat(",") {
                operands.push(self.operand(names)?);
            }
        }
        let attrs = if self.is("{") { self.attrs(op)? } else { Attrs::new() };
        let stated = if self.eat(":") { self.types()? } else { Vec::new() };
        let mut node_name = results[0].clone();
        if self.eat_word("loc") {
            self.expect("(")?;
            node_name = self.string()?;
            self.expect(")")?;
        }
        let values =
            builder.node(&node_name, op, attrs, &operands, results).map_err(|d| d.at_line(line, column))?;
        for (n, (name, value)) in results.iter().zip(&values).enumerate() {
            let inferred = builder.graph().ty(*value);
            if let Some(stated) = stated.get(n).filter(|t| *t != inferred) {
                let text = format!("the stated type of %{name} is {stated}, the inferred one is {inferred}");
                return Err(Diag::new("V014", text)
                    .at_line(line, column)
                    .hint("leave the type out to have it inferred"));
            }
            names.insert(name.clone(), *value);
        }
        Ok(())
    }

    fn op(&mut self) -> Result<OpRef, Diag> {
        let (line, column) = self.here();
        let name = self.name()?;
        self.registry.get(&name).ok_or_else(|| {
            let hint = self.registry.similar(&name).map_or(String::new(), |s| format!("did you mean {s}?"));
            Diag::new("T016", format!("there is no operator {name}")).at_line(line, column).hint(hint)
        })
    }

    fn operand(&mut self, names: &Names) -> Result<Option<ValueId>, Diag> {
        if self.eat_word("_") {
            return Ok(None);
        }
        let (line, column) = self.here();
        let name = self.value()?;
        names.get(&name).copied().map(Some).ok_or_else(|| undefined(&name, names).at_line(line, column))
    }

    fn types(&mut self) -> Result<Vec<Type>, Diag> {
        let mut types = vec![self.ty()?];
        while self.eat(",") {
            types.push(self.ty()?);
        }
        Ok(types)
    }

    fn dtype(&mut self) -> Result<DType, Diag> {
        let (line, column) = self.here();
        let name = self.name()?;
        dtype_named(&name).ok_or_else(|| {
            Diag::new("T017", format!("{name} is not an element type"))
                .at_line(line, column)
                .hint("for example f32, i64, bool")
        })
    }

    fn ty(&mut self) -> Result<Type, Diag> {
        self.type_within(0)
    }

    fn type_within(&mut self, depth: usize) -> Result<Type, Diag> {
        if depth > MAX_NESTING {
            return Err(self.error("T018", "the type nests too deeply"));
        }
        if self.eat_word("any") {
            return Ok(Type::any());
        }
        for (word, make) in [("seq", Type::sequence as fn(Type) -> Type), ("opt", Type::optional)] {
            if self.eat_word(word) {
                self.expect("(")?;
                let item = self.type_within(depth + 1)?;
                self.expect(")")?;
                return Ok(make(item));
            }
        }
        if self.eat_word("map") {
            self.expect("(")?;
            let key = self.dtype()?;
            self.expect(",")?;
            let value = self.dtype()?;
            self.expect(")")?;
            return Ok(Type::map(key, value));
        }
        let dtype = self.dtype()?;
        self.expect("[")?;
        if self.eat("*") {
            self.expect("]")?;
            return Ok(Type::unranked(dtype));
        }
        self.at -= 1;
        Ok(Type::new(dtype, self.list("[", "]", |p| p.dim(0))?))
    }

    fn dim(&mut self, depth: usize) -> Result<Dim, Diag> {
        let mut sum = if self.eat("-") { Dim::known(0) - self.term(depth)? } else { self.term(depth)? };
        loop {
            sum = match self.peek() {
                Tok::Punct("+") => {
                    self.at += 1;
                    sum + self.term(depth)?
                }
                Tok::Punct("-") => {
                    self.at += 1;
                    sum - self.term(depth)?
                }
                // `n -2` lexes as a negative number.
                Tok::Int(n) if *n < 0 => sum + self.term(depth)?,
                _ => return Ok(sum),
            };
            if sum.n_terms() > crate::dim::MAX_TERMS {
                return Err(self.error("T018", "the dimension has too many terms"));
            }
        }
    }

    fn term(&mut self, depth: usize) -> Result<Dim, Diag> {
        let mut product = self.factor(depth)?;
        while self.eat("*") {
            product = product * self.factor(depth)?;
        }
        Ok(product)
    }

    fn factor(&mut self, depth: usize) -> Result<Dim, Diag> {
        if depth > MAX_NESTING {
            return Err(self.error("T018", "the dimension nests too deeply"));
        }
        match self.next() {
            Tok::Int(n) => Ok(Dim::known(n)),
            Tok::Str(name) => Ok(Dim::symbol(&name)),
            Tok::Ident(name) if matches!(name.as_str(), "floordiv" | "max" | "min") => {
                self.expect("(")?;
                let a = self.dim(depth + 1)?;
                self.expect(",")?;
                let b = self.dim(depth + 1)?;
                self.expect(")")?;
                Ok(match name.as_str() {
                    "floordiv" => a.floor_div(&b),
                    "max" => a.larger(&b),
                    _ => a.smaller(&b),
                })
            }
            Tok::Ident(name) => Ok(Dim::symbol(&name)),
            _ => Err(self
                .error("T018", "expected a dimension")
                .hint("a number, a symbol, or sums and products of them")),
        }
    }

    fn attrs(&mut self, op: OpRef) -> Result<Attrs, Diag> {
        let mut attrs = Attrs::new();
        self.list("{", "}", |p| {
            let (line, column) = p.here();
            let name = p.name()?;
            p.expect("=")?;
            if name == SIZES {
                attrs.set(&name, p.attr(AttrKind::Strs)?);
                return Ok(());
            }
            let Some(def) = op.attr(&name) else {
                let known: Vec<&str> = op.attrs.iter().map(|a| a.name).collect();
                return Err(Diag::new("V013", format!("{} has no attribute {name}", op.name))
                    .at_line(line, column)
                    .hint(format!("it has: {}", known.join(", "))));
            };
            attrs.set(&name, p.attr(def.kind)?);
            Ok(())
        })?;
        Ok(attrs)
    }

    fn attr(&mut self, kind: AttrKind) -> Result<Attr, Diag> {
        Ok(match kind {
            AttrKind::Int if self.eat_word("true") => Attr::Int(1),
            AttrKind::Int if self.eat_word("false") => Attr::Int(0),
            AttrKind::Int => Attr::Int(self.int()?),
            AttrKind::Float => Attr::Float(self.float()? as f32),
            AttrKind::Str => Attr::Str(self.string()?),
            AttrKind::DType => Attr::DType(self.dtype()?),
            AttrKind::Ints | AttrKind::Dims => Attr::from(self.list("[", "]", |p| p.dim(0))?),
            AttrKind::Floats => Attr::Floats(self.list("[", "]", |p| p.float().map(|v| v as f32))?),
            AttrKind::Strs => Attr::Strs(self.list("[", "]", Self::string)?),
            AttrKind::Tensor => {
                let ty = self.ty()?;
                Attr::Tensor(self.literal(&ty)?)
            }
            AttrKind::Graph => Attr::Graph(Body(Arc::new(self.body()?))),
            AttrKind::Type => Attr::Type(self.ty()?),
        })
    }

    fn float(&mut self) -> Result<f64, Diag> {
        Ok(match self.number()? {
            Number::Int(n) => n as f64,
            Number::Float(v) => v,
        })
    }

    fn number(&mut self) -> Result<Number, Diag> {
        let negative = self.eat("-");
        let number = match self.next() {
            Tok::Int(n) => Number::Int(n),
            Tok::Float(v) => Number::Float(v),
            Tok::Ident(word) if word == "inf" => Number::Float(f64::INFINITY),
            Tok::Ident(word) if word == "nan" => Number::Float(f64::NAN),
            Tok::Ident(word) if word == "true" => Number::Int(1),
            Tok::Ident(word) if word == "false" => Number::Int(0),
            _ => return Err(self.error("T019", "expected a number")),
        };
        Ok(match number {
            Number::Float(v) if negative => Number::Float(-v),
            Number::Int(_) if negative => {
                return Err(self.error("T019", "expected a number after the minus sign"));
            }
            other => other,
        })
    }

    fn literal(&mut self, ty: &Type) -> Result<Tensor, Diag> {
        let (line, column) = self.here();
        let place = |d: Diag| d.at_line(line, column);
        let Some(shape) = ty.known_shape() else {
            return Err(place(Diag::new("T020", "the shape of a constant must be known")));
        };
        if n_elements(&shape).is_none_or(|n| n > MAX_CONST_ELEMENTS) {
            return Err(place(Diag::new(
                "T021",
                format!("{ty} is larger than the limit of {MAX_CONST_ELEMENTS} elements"),
            )));
        }
        let kind = self.name()?;
        if matches!(kind.as_str(), "splat" | "random" | "iota") {
            self.make_room(ty, &shape).map_err(place)?;
        }
        if ty.dtype == DType::Str {
            let strings = self.list("[", "]", Self::string)?;
            let tensor = Tensor::from_strings(&shape, &strings).filter(|_| kind == "dense");
            return tensor.ok_or_else(|| {
                place(Diag::new(
                    "T023",
                    format!("text is written dense [...] with as many strings as {ty} has"),
                ))
            });
        }
        let tensor = match kind.as_str() {
            "splat" => literal::splat(ty.dtype, &shape, self.number()?),
            "dense" => literal::dense(ty.dtype, &shape, &self.dense()?),
            "random" => {
                self.expect("(")?;
                let seed = self.int()?;
                self.expect(")")?;
                Some(literal::random(ty.dtype, &shape, seed))
            }
            "iota" => literal::iota(ty.dtype, &shape),
            "file" => {
                return self
                    .file(ty, &shape)
                    .map_err(|d| if d.place.line_column.is_some() { d } else { place(d) });
            }
            _ => {
                return Err(place(
                    Diag::new("T022", format!("{kind} is not a constant"))
                        .hint("splat, dense, random, iota or file"),
                ));
            }
        };
        tensor.ok_or_else(|| place(Diag::new("T023", format!("the number of elements is not that of {ty}"))))
    }

    /// Takes the bytes of a constant that is about to be made.
    fn make_room(&mut self, ty: &Type, shape: &[usize]) -> Result<(), Diag> {
        let bytes = n_elements(shape).and_then(|n| n.checked_mul(ty.dtype.size_bytes()));
        let left = bytes.and_then(|bytes| self.made_bytes.checked_sub(bytes));
        self.made_bytes = left.ok_or_else(|| {
            Diag::new("T021", format!("{ty} goes beyond the bytes that constants may have together"))
                .hint("put large constants into files")
        })?;
        Ok(())
    }

    /// All numbers of a possibly nested list, in order.
    fn dense(&mut self) -> Result<Vec<Number>, Diag> {
        self.expect("[")?;
        let (mut depth, mut numbers) = (1usize, Vec::new());
        while depth > 0 {
            if self.eat("[") {
                depth += 1;
            } else if self.eat("]") {
                depth -= 1;
                // What follows the whole list is not ours.
                if depth > 0 {
                    self.eat(",");
                }
            } else {
                numbers.push(self.number()?);
                if !self.is("]") {
                    self.expect(",")?;
                }
            }
            if depth > MAX_NESTING {
                return Err(self.error("T024", "the list nests too deeply"));
            }
        }
        Ok(numbers)
    }

    fn file(&mut self, ty: &Type, shape: &[usize]) -> Result<Tensor, Diag> {
        let name = self.string()?;
        self.expect("[")?;
        let start = self.int()?;
        self.expect("..")?;
        let end = self.int()?;
        self.expect("]")?;
        let hash = if self.eat_word("hash") { Some(self.string()?) } else { None };
        let bytes =
            (self.files)(&name).map_err(|why| Diag::new("T025", format!("cannot read {name:?}: {why}")))?;
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok()).filter(|(a, b)| a <= b);
        let part = range.and_then(|(a, b)| bytes.sub(a, b - a));
        let tensor = part.and_then(|p| Tensor::new(ty.dtype, shape, p)).ok_or_else(|| {
            Diag::new("T026", format!("bytes {start}..{end} of {name:?} do not hold a {ty}"))
                .hint("check the range and the file's length")
        })?;
        match hash {
            Some(hash) if hash != tensor.key() => Err(Diag::new(
                "T027",
                format!("the content of {name:?} is not what the text was written with"),
            )),
            _ => Ok(tensor),
        }
    }
}

fn undefined(name: &str, names: &Names) -> Diag {
    let near = names.keys().find(|k| k.eq_ignore_ascii_case(name) || k.starts_with(name));
    let hint = near.map_or_else(
        || "values are defined before they are used".to_owned(),
        |n| format!("did you mean %{n}?"),
    );
    Diag::new("T028", format!("%{name} is not defined")).hint(hint)
}

/// The element type called `name`.
fn dtype_named(name: &str) -> Option<DType> {
    (0..).map_while(|n| DType::try_from(n).ok()).find(|d| d.name() == name)
}
