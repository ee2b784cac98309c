//! Reads rule files: one rule per line, `name [numerics]: lhs => rhs if condition, ...`.
//!
//! `@numerics`, `@phase` set what the following rules share. A pattern `%f:unary` stands for every operator
//! of a class; such a rule becomes one rule per operator.

use super::functions::{FUNCTIONS, TESTS};
use super::lexer::{Spanned, Token, tokens};
use super::pattern::{
    AttrPattern, Condition, Expr, Numerics, OpPattern, OpTerm, Pattern, Rule, Term, Var, VarKind,
};
use partita_ir::diag::Diag;
use partita_ir::op::AttrKind;
use partita_ir::{Attr, DType, OpRef, Registry};

/// Deepest nesting of a pattern.
const MAX_DEPTH: usize = 32;

/// What the lines of a file share.
#[derive(Clone, Copy)]
struct Shared {
    numerics: Numerics,
    phase: u32,
}

/// Reads a file's rules; `theme` names it in messages and reports.
///
/// # Errors
/// One located diagnostic per wrong line: `O001` tokens, `O002` syntax, `O003` unknown names.
pub fn rules(theme: &str, text: &str, registry: Registry) -> Result<Vec<Rule>, Vec<Diag>> {
    let mut shared = Shared { numerics: Numerics::Exact, phase: 1 };
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    for (n, line) in text.lines().enumerate() {
        match rule_line(line, n + 1, theme, &mut shared, registry) {
            Ok(found) => out.extend(found),
            Err(diag) => errors.push(diag.in_file(theme)),
        }
    }
    if errors.is_empty() { Ok(out) } else { Err(errors) }
}

fn rule_line(
    line: &str,
    number: usize,
    theme: &str,
    shared: &mut Shared,
    registry: Registry,
) -> Result<Vec<Rule>, Diag> {
    if let Some(setting) = line.trim().strip_prefix('@') {
        set(setting, number, shared)?;
        return Ok(Vec::new());
    }
    let tokens = tokens(line, number)?;
    if tokens.is_empty() {
        return Ok(Vec::new());
    }
    let classes = operator_classes(&tokens, number, registry)?;
    let Some((class, ops)) = classes else {
        return Ok(vec![Parser::new(&tokens, number, registry).rule(theme, *shared)?]);
    };
    ops.into_iter()
        .map(|op| {
            let mut parser = Parser::new(&tokens, number, registry);
            parser.class = Some((class.clone(), op));
            let mut rule = parser.rule(theme, *shared)?;
            rule.name = format!("{}/{}", rule.name, op.name);
            Ok(rule)
        })
        .collect()
}

fn set(setting: &str, number: usize, shared: &mut Shared) -> Result<(), Diag> {
    let mut words = setting.split_whitespace();
    let (name, value) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    match (name, numerics(value), value.parse()) {
        ("numerics", Some(numerics), _) => shared.numerics = numerics,
        ("phase", _, Ok(phase)) => shared.phase = phase,
        _ => {
            let diag = Diag::new("O002", format!("@{setting} is no setting")).at_line(number, 1);
            return Err(diag.hint("write `@numerics exact|reassociating|approximate` or `@phase 1`"));
        }
    }
    Ok(())
}

fn numerics(name: &str) -> Option<Numerics> {
    match name {
        "exact" => Some(Numerics::Exact),
        "reassociating" => Some(Numerics::Reassociating),
        "approximate" => Some(Numerics::Approximate),
        _ => None,
    }
}

/// The operator class a line uses (`%f:unary`), with its members.
fn operator_classes(
    tokens: &[Spanned],
    number: usize,
    registry: Registry,
) -> Result<Option<(String, Vec<OpRef>)>, Diag> {
    for window in tokens.windows(3) {
        if let [(Token::Class(name), _), (Token::Mark(":"), _), (Token::Name(kind), column)] = window {
            let ops: Vec<OpRef> = registry.iter().filter(|op| in_class(*op, kind)).collect();
            if ops.is_empty() {
                let diag = Diag::new("O003", format!("{kind} is no operator class"));
                return Err(diag.at_line(number, *column).hint("classes are unary, binary and reduce"));
            }
            return Ok(Some((name.clone(), ops)));
        }
    }
    Ok(None)
}

/// Whether an operator belongs to an operator class.
pub fn in_class(op: OpRef, class: &str) -> bool {
    let plain = op.traits.elementwise && op.scalar.is_some() && op.outputs.max == 1;
    match class {
        "unary" => plain && op.inputs.min == 1 && op.inputs.max == 1,
        "binary" => plain && op.inputs.min == 2 && op.inputs.max == 2,
        "reduce" => op.name.starts_with("reduce_"),
        _ => false,
    }
}

/// Demands on attributes, by name.
type AttrPatterns = Vec<(String, AttrPattern)>;

/// Attributes to be set, by name.
type AttrTerms = Vec<(String, Expr)>;

struct Parser<'a> {
    tokens: &'a [Spanned],
    at: usize,
    line: usize,
    registry: Registry,
    class: Option<(String, OpRef)>,
    vars: Vec<(String, VarKind)>,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(tokens: &'a [Spanned], line: usize, registry: Registry) -> Self {
        Self { tokens, at: 0, line, registry, class: None, vars: Vec::new(), depth: 0 }
    }

    fn error(&self, code: &'static str, message: impl Into<String>) -> Diag {
        let end = self.tokens.last().map_or(1, |t| t.1 + 1);
        Diag::new(code, message).at_line(self.line, self.tokens.get(self.at).map_or(end, |t| t.1))
    }

    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at).map(|t| &t.0)
    }

    fn next(&mut self) -> Option<&'a Token> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn eat(&mut self, mark: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Mark(m)) if *m == mark);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: &str) -> Result<(), Diag> {
        if self.eat(mark) { Ok(()) } else { Err(self.error("O002", format!("`{mark}` is missing here"))) }
    }

    fn name(&mut self) -> Result<String, Diag> {
        match self.peek() {
            Some(Token::Name(name)) => {
                self.at += 1;
                Ok(name.clone())
            }
            _ => Err(self.error("O002", "a name is missing here")),
        }
    }

    fn rule(mut self, theme: &str, shared: Shared) -> Result<Rule, Diag> {
        let name = self.name()?;
        let mut class = shared.numerics;
        if self.eat("[") {
            let word = self.name()?;
            class =
                numerics(&word).ok_or_else(|| self.error("O003", format!("{word} is no numerics class")))?;
            self.expect("]")?;
        }
        self.expect(":")?;
        let Pattern::Op(lhs) = self.pattern()? else {
            return Err(self.error("O002", "the left-hand side must be an operator"));
        };
        self.expect("=>")?;
        let rhs = self.term()?;
        let conditions = self.conditions()?;
        if self.at < self.tokens.len() {
            return Err(self.error("O002", "nothing more is expected here"));
        }
        let (numerics, phase) = (class, shared.phase);
        Ok(Rule { name, theme: theme.to_owned(), numerics, phase, vars: self.vars, lhs, rhs, conditions })
    }

    fn conditions(&mut self) -> Result<Vec<Condition>, Diag> {
        let mut out = Vec::new();
        if !matches!(self.peek(), Some(Token::Name(word)) if word == "if") {
            return Ok(out);
        }
        self.at += 1;
        loop {
            let name = self.name()?;
            let Some(test) = TESTS.iter().find(|t| t.name == name) else {
                return Err(self.error("O003", format!("{name} is no condition")));
            };
            let args = self.arguments()?;
            out.push(Condition { test, args });
            if !self.eat(",") {
                return Ok(out);
            }
        }
    }

    fn arguments(&mut self) -> Result<Vec<Expr>, Diag> {
        self.expect("(")?;
        let mut out = Vec::new();
        while !self.eat(")") {
            out.push(self.expr()?);
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(out)
    }

    /// Declares a variable on the left-hand side.
    fn bind(&mut self, name: &str, kind: VarKind) -> Result<Var, Diag> {
        if let Some(var) = self.vars.iter().position(|v| v.0 == name) {
            let same = self.vars[var].1 == kind;
            return if same {
                Ok(var)
            } else {
                Err(self.error("O003", format!("?{name} is used as two kinds")))
            };
        }
        self.vars.push((name.to_owned(), kind));
        Ok(self.vars.len() - 1)
    }

    /// A variable on the right-hand side.
    fn bound(&self, name: &str, kind: Option<VarKind>) -> Result<Var, Diag> {
        self.vars
            .iter()
            .position(|v| v.0 == name && kind.is_none_or(|k| k == v.1))
            .ok_or_else(|| self.error("O003", format!("?{name} is not bound by the left-hand side")))
    }

    fn op(&mut self) -> Result<OpRef, Diag> {
        if let Some(Token::Class(name)) = self.peek() {
            self.at += 1;
            if self.eat(":") {
                self.name()?;
            }
            return match &self.class {
                Some((class, op)) if class == name => Ok(*op),
                _ => Err(self.error("O003", format!("%{name} has no class"))),
            };
        }
        let name = self.name()?;
        self.registry.get(&name).ok_or_else(|| {
            let diag = self.error("O003", format!("there is no operator {name}"));
            diag.hint(self.registry.similar(&name).map_or(String::new(), |s| format!("did you mean {s}?")))
        })
    }

    fn deeper(&mut self) -> Result<(), Diag> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("O002", format!("patterns nest at most {MAX_DEPTH} deep")));
        }
        Ok(())
    }

    fn pattern(&mut self) -> Result<Pattern, Diag> {
        match self.next() {
            Some(Token::Var(name)) => Ok(Pattern::Var(self.bind(name, VarKind::Class)?)),
            Some(Token::Int(v)) => Ok(Pattern::Number(*v as f64)),
            Some(Token::Float(v)) => Ok(Pattern::Number(*v)),
            Some(Token::Mark("_")) => Ok(Pattern::Omitted),
            Some(Token::Mark("(")) => {
                self.deeper()?;
                let pattern = self.op_pattern()?;
                self.depth -= 1;
                Ok(Pattern::Op(pattern))
            }
            _ => {
                self.at -= 1;
                Err(self.error("O002", "a pattern is missing here"))
            }
        }
    }

    fn op_pattern(&mut self) -> Result<OpPattern, Diag> {
        let op = self.op()?;
        let (attrs, rest) = self.attr_patterns(op)?;
        let mut children = Vec::new();
        let mut tail = None;
        while !self.eat(")") {
            if let Some(name) = self.tail() {
                tail = Some(self.bind(&name, VarKind::List)?);
                self.expect(")")?;
                break;
            }
            children.push(self.pattern()?);
        }
        Ok(OpPattern { op, attrs, rest, children, tail })
    }

    /// `?xs...`
    fn tail(&mut self) -> Option<String> {
        let [(Token::Var(name), _), (Token::Mark("..."), _)] = self.tokens.get(self.at..self.at + 2)? else {
            return None;
        };
        self.at += 2;
        Some(name.clone())
    }

    fn check_attr(&self, op: OpRef, name: &str) -> Result<AttrKind, Diag> {
        let def = op.attr(name);
        def.map(|d| d.kind).ok_or_else(|| self.error("O003", format!("{} has no attribute {name}", op.name)))
    }

    fn attr_patterns(&mut self, op: OpRef) -> Result<(AttrPatterns, Option<Var>), Diag> {
        let (mut out, mut rest) = (Vec::new(), None);
        if !self.eat("{") {
            return Ok((out, rest));
        }
        while !self.eat("}") {
            if self.eat("..") {
                let Some(Token::Var(name)) = self.next() else {
                    return Err(self.error("O002", "`..` is followed by a variable"));
                };
                rest = Some(self.bind(name, VarKind::Attrs)?);
            } else {
                let name = self.name()?;
                let kind = self.check_attr(op, &name)?;
                let optional = self.eat("?=");
                if !optional {
                    self.expect("=")?;
                }
                let pattern = match self.peek() {
                    Some(Token::Var(var)) => {
                        self.at += 1;
                        AttrPattern::Bind(self.bind(var, VarKind::Attr)?)
                    }
                    _ if optional => AttrPattern::IsOrAbsent(coerce(self.literal()?, kind)),
                    _ => AttrPattern::Is(coerce(self.literal()?, kind)),
                };
                out.push((name, pattern));
            }
            self.eat(",");
        }
        Ok((out, rest))
    }

    fn literal(&mut self) -> Result<Attr, Diag> {
        match self.next() {
            Some(Token::Int(v)) => Ok(Attr::Int(*v)),
            Some(Token::Float(v)) => Ok(Attr::Float(*v as f32)),
            Some(Token::Str(v)) => Ok(Attr::Str(v.clone())),
            Some(Token::Name(v)) => Ok(dtype_named(v).map_or(Attr::Str(v.clone()), Attr::DType)),
            Some(Token::Mark("[")) => self.list(),
            _ => {
                self.at -= 1;
                Err(self.error("O002", "a number, string or list is missing here"))
            }
        }
    }

    fn list(&mut self) -> Result<Attr, Diag> {
        let mut ints = Vec::new();
        while !self.eat("]") {
            match self.next() {
                Some(Token::Int(v)) => ints.push(*v),
                _ => return Err(self.error("O002", "lists hold integers")),
            }
            self.eat(",");
        }
        Ok(Attr::Ints(ints))
    }

    fn expr(&mut self) -> Result<Expr, Diag> {
        self.deeper()?;
        let expr = match (self.peek(), self.tokens.get(self.at + 1).map(|t| &t.0)) {
            (Some(Token::Var(name)), _) => {
                self.at += 1;
                Expr::Var(self.bound(name, None)?)
            }
            (Some(Token::Name(name)), Some(Token::Mark("("))) => {
                let Some(function) = FUNCTIONS.iter().find(|f| f.name == name) else {
                    return Err(self.error("O003", format!("there is no function {name}")));
                };
                self.at += 1;
                Expr::Call(function, self.arguments()?)
            }
            _ => Expr::Literal(self.literal()?),
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn term(&mut self) -> Result<Term, Diag> {
        match self.next() {
            Some(Token::Var(name)) => Ok(Term::Var(self.bound(name, Some(VarKind::Class))?)),
            Some(Token::Int(v)) => Ok(Term::Number(*v as f64)),
            Some(Token::Float(v)) => Ok(Term::Number(*v)),
            Some(Token::Mark("_")) => Ok(Term::Omitted),
            Some(Token::Mark("(")) => {
                self.deeper()?;
                let term = self.op_term()?;
                self.depth -= 1;
                Ok(Term::Op(term))
            }
            _ => {
                self.at -= 1;
                Ok(Term::Constant(self.expr()?))
            }
        }
    }

    fn op_term(&mut self) -> Result<OpTerm, Diag> {
        let op = self.op()?;
        let (attrs, rest) = self.attr_terms(op)?;
        let (mut children, mut tails) = (Vec::new(), Vec::new());
        while !self.eat(")") {
            if let Some(name) = self.tail() {
                tails.push(self.bound(&name, Some(VarKind::List))?);
            } else if tails.is_empty() {
                children.push(self.term()?);
            } else {
                return Err(self.error("O002", "operands come before lists of operands"));
            }
        }
        Ok(OpTerm { op, attrs, rest, children, tails })
    }

    fn attr_terms(&mut self, op: OpRef) -> Result<(AttrTerms, Option<Var>), Diag> {
        let (mut out, mut rest) = (Vec::new(), None);
        if !self.eat("{") {
            return Ok((out, rest));
        }
        while !self.eat("}") {
            if self.eat("..") {
                let Some(Token::Var(name)) = self.next() else {
                    return Err(self.error("O002", "`..` is followed by a variable"));
                };
                rest = Some(self.bound(name, Some(VarKind::Attrs))?);
            } else {
                let name = self.name()?;
                let kind = self.check_attr(op, &name)?;
                self.expect("=")?;
                let expr = match self.expr()? {
                    Expr::Literal(attr) => Expr::Literal(coerce(attr, kind)),
                    other => other,
                };
                out.push((name, expr));
            }
            self.eat(",");
        }
        Ok((out, rest))
    }
}

/// The element type called `name`.
fn dtype_named(name: &str) -> Option<DType> {
    use DType::{Bf16, Bool, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
    [F32, F16, Bf16, F64, I8, I16, I32, I64, U8, U16, U32, U64, Bool].into_iter().find(|d| d.name() == name)
}

/// A literal in the kind an attribute has: `1` may be meant as 1.0.
pub fn coerce(attr: Attr, kind: AttrKind) -> Attr {
    match (attr, kind) {
        (Attr::Int(v), AttrKind::Float) => Attr::Float(v as f32),
        (Attr::Int(v), AttrKind::Ints | AttrKind::Dims) => Attr::Ints(vec![v]),
        (Attr::Float(v), AttrKind::Int) => Attr::Int(v as i64),
        (other, _) => other,
    }
}
