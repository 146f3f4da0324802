//! Pipelines in text: `builtin.module(canonicalize-graph,map-to-analog{keep-digital=fc*},…)`, or the bare list.
//!
//! MLIR cannot parse external passes back, so this parser is ours. Within braces are `key=value` pairs separated by
//! spaces; a value runs to the next space outside quotes and brackets, so that `spec=gaussian(sigma=6%)+adc(bits=8)`
//! and `at=conv1,conv2` need no quotes. Upstream passes may be nested under `func.func(…)`.

use super::{
    definition::Options,
    registry::{Alias, Registry},
};
use std::fmt;

/// What a pipeline runs, in order.
#[derive(Clone)]
pub struct Pipeline {
    /// What its steps are names of.
    pub registry: &'static Registry,
    /// The passes, aliases expanded.
    pub steps: Vec<Step>,
}

/// One pass of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The pass's name.
    pub name: String,
    /// Its options.
    pub options: Options,
    /// The operation it is nested under, other than the module (upstream passes only).
    pub anchor: Option<String>,
}

/// Why a pipeline is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pass pipeline: {message}\n  {text}\n  {:>width$}", "^", width = position + 1)]
pub struct PipelineError {
    message: String,
    text: String,
    position: usize,
}

impl Pipeline {
    /// A pipeline without steps.
    pub fn new(registry: &'static Registry) -> Self {
        Self { registry, steps: Vec::new() }
    }

    /// Parses a pipeline and checks that every pass exists and takes its options.
    pub fn parse(registry: &'static Registry, text: &str) -> Result<Self, PipelineError> {
        let mut parser = Parser { registry, text, position: 0 };
        let mut steps = Vec::new();
        parser.list(None, 0, &mut steps)?;
        parser.skip_spaces();
        if parser.position < text.len() {
            return Err(parser.error("unexpected text"));
        }
        Ok(Self { registry, steps })
    }

    /// Appends a pass.
    pub fn then(mut self, name: &str, options: Options) -> Self {
        self.steps.push(Step { name: name.to_owned(), options, anchor: None });
        self
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<_> = self.steps.iter().map(Step::to_string).collect();
        write!(f, "builtin.module({})", steps.join(","))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(anchor) = &self.anchor {
            write!(f, "{anchor}(")?;
        }
        f.write_str(&self.name)?;
        if !self.options.is_empty() {
            let entries: Vec<_> = self.options.iter().map(|(key, value)| format!("{key}={}", quote(value))).collect();
            write!(f, "{{{}}}", entries.join(" "))?;
        }
        if self.anchor.is_some() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// Quotes a value that would not be read back as it is.
fn quote(value: &str) -> String {
    let plain = !value.is_empty()
        && !value.chars().any(|c| c.is_whitespace() || matches!(c, '{' | '}' | '\'' | '"'))
        && balanced(value);
    match (plain, value.contains('\'')) {
        (true, _) => value.to_owned(),
        (false, false) => format!("'{value}'"),
        (false, true) => format!("\"{value}\""),
    }
}

fn balanced(value: &str) -> bool {
    let mut depth = 0i32;
    for c in value.chars() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

struct Parser<'t> {
    registry: &'static Registry,
    text: &'t str,
    position: usize,
}

/// Nesting deeper than this is refused rather than recursed into.
const MAX_DEPTH: usize = 8;

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.position..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_spaces(&mut self) {
        let rest = self.rest();
        self.position += rest.len() - rest.trim_start().len();
    }

    fn eat(&mut self, expected: char) -> bool {
        self.skip_spaces();
        let found = self.peek() == Some(expected);
        if found {
            self.position += expected.len_utf8();
        }
        found
    }

    fn error(&self, message: impl Into<String>) -> PipelineError {
        self.error_at(self.position, message)
    }

    fn error_at(&self, position: usize, message: impl Into<String>) -> PipelineError {
        PipelineError {
            message: message.into(),
            text: self.text.to_owned(),
            position: self.text[..position].chars().count(),
        }
    }

    fn list(&mut self, anchor: Option<&str>, depth: usize, steps: &mut Vec<Step>) -> Result<(), PipelineError> {
        loop {
            self.item(anchor, depth, steps)?;
            if !self.eat(',') {
                return Ok(());
            }
        }
    }

    fn item(&mut self, anchor: Option<&str>, depth: usize, steps: &mut Vec<Step>) -> Result<(), PipelineError> {
        self.skip_spaces();
        let start = self.position;
        let name: String =
            self.rest().chars().take_while(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.')).collect();
        if name.is_empty() {
            return Err(self.error("a pass name expected"));
        }
        self.position += name.len();
        if self.eat('(') {
            let nested = match name.as_str() {
                "builtin.module" | "any" if anchor.is_none() => None,
                "func.func" if anchor.is_none() => Some("func.func"),
                _ => {
                    let message = format!("cannot nest under {name}; use builtin.module or func.func");
                    return Err(self.error_at(start, message));
                }
            };
            if depth >= MAX_DEPTH {
                return Err(self.error_at(start, "nested too deeply"));
            }
            self.list(nested, depth + 1, steps)?;
            if !self.eat(')') {
                return Err(self.error("`)` or `,` expected"));
            }
            return Ok(());
        }
        let options = if self.eat('{') { self.options()? } else { Options::default() };
        if let Some(Alias { pipeline, .. }) = self.registry.find_alias(&name) {
            if !options.is_empty() {
                let message = format!("{name} is an alias of {pipeline}: give the options to its passes");
                return Err(self.error_at(start, message));
            }
            let expanded = Pipeline::parse(self.registry, pipeline)
                .map_err(|error| self.error_at(start, format!("{name}: {}", error.message)))?;
            steps.extend(expanded.steps);
            return Ok(());
        }
        if self.registry.find_upstream(&name).is_some() {
            if !options.is_empty() {
                return Err(self.error_at(start, format!("{name} takes no options here")));
            }
        } else if let Some(info) = self.registry.find(&name) {
            if let Some(anchor) = anchor {
                let message = format!("{name} runs on the module, not on {anchor}");
                return Err(self.error_at(start, message));
            }
            if let Err(error) = info.build(&options) {
                return Err(self.error_at(start, format!("{name}: {error}")));
            }
        } else {
            let message = match nearest(&name, self.registry.names()) {
                Some(near) => format!("no pass named {name}; did you mean {near}?"),
                None => format!("no pass named {name}; mxc opt --show-passes lists them"),
            };
            return Err(self.error_at(start, message));
        }
        steps.push(Step { name, options, anchor: anchor.map(str::to_owned) });
        Ok(())
    }

    /// The options after `{`, through `}`.
    fn options(&mut self) -> Result<Options, PipelineError> {
        let mut options = Options::default();
        loop {
            if self.eat('}') {
                return Ok(options);
            }
            let start = self.position;
            let key: String =
                self.rest().chars().take_while(|c| !c.is_whitespace() && !matches!(c, '=' | '{' | '}')).collect();
            self.position += key.len();
            if key.is_empty() {
                return Err(self.error("an option (key=value) or `}` expected"));
            }
            if !self.eat('=') {
                return Err(self.error_at(start, format!("option {key} needs a value: {key}=…")));
            }
            let value = self.value()?;
            options.push(key, value);
        }
    }

    fn value(&mut self) -> Result<String, PipelineError> {
        let start = self.position;
        if let Some(quote @ ('\'' | '"')) = self.peek() {
            let body = &self.rest()[1..];
            let Some(end) = body.find(quote) else {
                return Err(self.error_at(start, "this quote is not closed"));
            };
            self.position += end + 2;
            return Ok(body[..end].to_owned());
        }
        let mut depth = 0usize;
        let mut value = String::new();
        for c in self.rest().chars() {
            match c {
                '(' | '[' | '{' => depth += 1,
                '}' if depth == 0 => break,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                c if c.is_whitespace() && depth == 0 => break,
                _ => {}
            }
            value.push(c);
        }
        self.position += value.len();
        if self.position == self.text.len() {
            return Err(self.error_at(start, "`}` expected after this option"));
        }
        Ok(value)
    }
}

/// The known name nearest to a misspelt one, within three edits.
fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    known
        .map(|known| (edit_distance(name, known), known))
        .filter(|(distance, _)| *distance <= 3)
        .min()
        .map(|(_, known)| known)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
