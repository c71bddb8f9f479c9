//! Configuration keys: name, type and domain of the value, default, and where a key exists. Values
//! are parsed from arguments and files.

use crate::{Error, Result, input};
use std::fmt::Display;
use std::path::Path;
use toml::{Table, Value};

/// Type and domain of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Integer between two numbers, both included; powers such as 2^17 are read too.
    Count(u64, u64),
    /// Number between two numbers, both included unless infinite.
    Real(f64, f64),
    /// 0, or a number between two, both included.
    ZeroOr(f64, f64),
    /// Number from the first on and below the second.
    Below(f64, f64),
    /// Any text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// List of integers, none below this one; `1,1` on the command line.
    Integers(i64),
}

/// [`Kind::Count`].
pub(super) const fn count(least: u64, most: u64) -> Kind {
    Kind::Count(least, most)
}
/// [`Kind::Real`].
pub(super) const fn real(least: f64, most: f64) -> Kind {
    Kind::Real(least, most)
}
/// [`Kind::Word`].
pub(super) const fn word(known: &'static [&'static str]) -> Kind {
    Kind::Word(known)
}

/// The value of a key that is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// None: the key must be given.
    Needed,
    /// None: the key stays absent.
    Absent,
    /// This value, in TOML.
    Is(&'static str),
}

/// Where a key exists: everywhere, or with these tasks, models or optimisers, each with its
/// default.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    /// In every run.
    Run(Default),
    /// With these tasks.
    Task(&'static [(&'static str, Default)]),
    /// With these models.
    Model(&'static [(&'static str, Default)]),
    /// With these optimisers.
    Optimizer(&'static [(&'static str, Default)]),
}

impl Scope {
    /// The key that decides whether this one exists; `None` if it always does.
    pub fn decided_by(&self) -> Option<&'static str> {
        match self {
            Scope::Run(_) => None,
            Scope::Task(_) => Some("task"),
            Scope::Model(_) => Some("model"),
            Scope::Optimizer(_) => Some("optimizer"),
        }
    }

    /// The tasks, models or optimisers with which it exists, and its default with each. Empty if it
    /// always exists.
    pub fn owners(&self) -> &'static [(&'static str, Default)] {
        match self {
            Scope::Run(_) => &[],
            Scope::Task(owners) | Scope::Model(owners) | Scope::Optimizer(owners) => owners,
        }
    }

    /// Its default with task, model or optimiser `owner`; `None` if it does not exist there.
    pub fn default_with(&self, owner: &str) -> Option<Default> {
        match self {
            Scope::Run(default) => Some(*default),
            other => other.owners().iter().find(|(name, _)| *name == owner).map(|(_, default)| *default),
        }
    }
}

/// One configuration key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Type and domain of its value.
    pub kind: Kind,
    /// Where it exists.
    pub scope: Scope,
    /// What it means.
    pub help: &'static str,
}

/// As much of what was typed as is needed to recognise it.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { short + ".." } else { short }
}

impl Key {
    /// A key of a command that is no key of a run.
    pub const fn of_command(name: &'static str, kind: Kind, help: &'static str) -> Key {
        Key { name, kind, scope: Scope::Run(Default::Absent), help }
    }

    /// What is allowed, for errors.
    pub fn allowed(&self) -> String {
        let bounds = |least: String, most: String| match (least.as_str(), most.as_str()) {
            ("", "") => "a finite number".to_string(),
            (least, "") => format!("{} >= {least}, finite", self.name),
            ("", most) => format!("{} <= {most}", self.name),
            (least, most) => format!("{least} <= {} <= {most}", self.name),
        };
        let real = |x: f64| if x.is_finite() { x.to_string() } else { String::new() };
        match self.kind {
            Kind::Count(least, most) if most == i64::MAX as u64 => {
                format!("integers, {least} <= {} < 2^63", self.name)
            }
            Kind::Count(least, most) => format!("integers, {least} <= {} <= {most}", self.name),
            Kind::Real(least, most) => bounds(real(least), real(most)),
            Kind::ZeroOr(least, most) => format!("0, or {least:e} <= {} <= {most}", self.name),
            Kind::Below(least, end) => format!(">= {least}, < {end}"),
            Kind::Word(known) => known.join(", "),
            Kind::Flag => "true or false".into(),
            Kind::Integers(least) => format!("integers >= {least}, e.g. 2,1"),
            Kind::Text => format!("a text: {}", self.help),
        }
    }

    /// A line for `--help`: meaning, words, and the value that the key has, or else its default.
    pub fn line(&self, owner: Option<&str>, value: Option<&Value>) -> String {
        let mut text = self.help.to_string();
        if let Kind::Word(known) = self.kind
            && !known.iter().all(|w| text.contains(w))
        {
            text += &format!(": {}", known.join(", "));
        }
        if let Some(value) = value {
            let shown: String = value.to_string().chars().filter(|c| !"\"'[]".contains(*c)).collect();
            return format!("{text} [{shown}]");
        }
        let default = |default: Default| match default {
            Default::Is(value) => Some(value.replace('\'', "")),
            Default::Needed | Default::Absent => None,
        };
        match (self.scope, owner) {
            (Scope::Run(of), _) => default(of).map(|d| text += &format!(" [{d}]")),
            (scope, Some(owner)) => {
                scope.default_with(owner).and_then(default).map(|d| text += &format!(" [{d}]"))
            }
            (scope, None) => {
                let names: Vec<&str> = scope.owners().iter().map(|o| o.0).collect();
                text = format!("{}: {text}", names.join(", "));
                None
            }
        };
        text
    }

    /// Its default with the task, model or optimiser `owner`; `None` if it has none, or one that
    /// depends on an owner that is not given.
    pub fn default_value(&self, owner: Option<&str>) -> Option<Value> {
        let default = match (self.scope, owner) {
            (Scope::Run(default), _) => default,
            (scope, owner) => scope.default_with(owner?)?,
        };
        match default {
            Default::Is(text) => format!("x = {text}").parse::<Table>().ok()?.remove("x"),
            Default::Needed | Default::Absent => None,
        }
    }

    fn refuse(&self, found: String) -> Error {
        Error::invalid(self.name, found.replace('\n', " "), self.allowed())
    }

    /// Converts a value to the type of its key (an integer to a real, one integer to a list) and
    /// checks its domain.
    ///
    /// # Errors
    /// Another type; a value out of its domain.
    pub fn check(&self, value: Value) -> Result<Value> {
        let value = match (self.kind, value) {
            (Kind::Real(..) | Kind::ZeroOr(..) | Kind::Below(..), Value::Integer(i)) => {
                Value::Float(i as f64)
            }
            (Kind::Integers(_), Value::Integer(i)) => Value::Array(vec![Value::Integer(i)]),
            (_, value) => value,
        };
        let good = match (self.kind, &value) {
            (Kind::Count(least, most), Value::Integer(i)) => {
                u64::try_from(*i).is_ok_and(|n| (least..=most).contains(&n))
            }
            (Kind::Real(least, most), Value::Float(x)) => x.is_finite() && (least..=most).contains(x),
            (Kind::ZeroOr(least, most), Value::Float(x)) => *x == 0.0 || (least..=most).contains(x),
            (Kind::Below(least, end), Value::Float(x)) => (least..end).contains(x),
            (Kind::Word(known), Value::String(s)) => {
                if !known.contains(&s.as_str()) {
                    return Err(Error::unknown(self.name, s, known.iter().copied()));
                }
                true
            }
            (Kind::Text, Value::String(_)) | (Kind::Flag, Value::Boolean(_)) => true,
            (Kind::Integers(least), Value::Array(a)) => {
                a.iter().all(|v| v.as_integer().is_some_and(|i| i >= least))
            }
            _ => false,
        };
        if good { Ok(value) } else { Err(self.refuse(value.to_string())) }
    }

    /// Parses the text after `key=`.
    ///
    /// # Errors
    /// As [`Key::check`].
    pub fn parse(&self, text: &str) -> Result<Value> {
        let wrong = || self.refuse(format!("`{}`", shown(text)));
        let integer = |t: &str| t.trim().parse::<i64>().map(Value::Integer).map_err(|_| wrong());
        let value = match self.kind {
            Kind::Count(..) => {
                // Powers such as 2^17 are how step counts are written in the papers.
                match text.split_once('^').map(|(b, e)| (b.parse::<i64>(), e.parse::<u32>())) {
                    Some((Ok(b), Ok(e))) => Value::Integer(b.checked_pow(e).ok_or_else(wrong)?),
                    _ => integer(text)?,
                }
            }
            Kind::Real(..) | Kind::ZeroOr(..) | Kind::Below(..) => {
                Value::Float(text.trim().parse().map_err(|_| wrong())?)
            }
            Kind::Text | Kind::Word(_) => Value::String(text.to_string()),
            Kind::Flag => Value::Boolean(text.trim().parse().map_err(|_| wrong())?),
            Kind::Integers(_) => {
                let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
                Value::Array(inner.split(',').map(integer).collect::<Result<_>>()?)
            }
        };
        self.check(value)
    }

    /// True if commas belong to the value, so that it is never a list of values.
    fn has_commas(&self) -> bool {
        matches!(self.kind, Kind::Integers(_))
            || ["parent_sets", "frozen", "freeze_until"].contains(&self.name)
    }
}

/// The key called `name` among `keys`.
///
/// # Errors
/// An unknown name; the message suggests the nearest one.
pub fn find<'a>(name: &str, keys: &'a [Key]) -> Result<&'a Key> {
    if name == "seeds" {
        let allowed = "seeds=K among the arguments of run, sweep or figures, where several runs start";
        return Err(Error::invalid("seeds", "not a key of one run", allowed));
    }
    let known = || keys.iter().map(|k| k.name);
    keys.iter().find(|k| k.name == name).ok_or_else(|| Error::unknown("key", name, known()))
}

/// Parses `key=value` arguments of a command that takes `keys`.
///
/// # Errors
/// An argument without `=`, an unknown key, a key that is given twice, a value of the wrong type or
/// out of its domain.
pub fn parse_keys(args: &[String], keys: &[Key]) -> Result<Table> {
    let mut table = Table::new();
    for arg in args {
        let Some((name, text)) = arg.split_once('=') else {
            return Err(Error::invalid("argument", format!("`{arg}`"), "key=value"));
        };
        let key = find(name.trim(), keys)?;
        let value = key.parse(text)?;
        if let Some(first) = table.insert(key.name.to_string(), value.clone()) {
            return Err(twice(key.name, &first, &value));
        }
    }
    Ok(table)
}

/// A key that is given twice: neither value is preferred, even where they are equal.
pub fn twice(key: &str, first: impl Display, second: impl Display) -> Error {
    Error::invalid(key, format!("given twice, {first} and {second}"), "every key once")
}

/// Values of `key=a,b,..`: several of them make an axis of a grid. Lists of integers are separated
/// by semicolons (`heads=1;1,1`); a list of sets is one value.
///
/// # Errors
/// As [`parse_keys`]; a value that is given twice.
pub fn parse_values(arg: &str, keys: &[Key]) -> Result<(String, Vec<Value>)> {
    let Some((name, text)) = arg.split_once('=') else {
        return Err(Error::invalid("argument", format!("`{arg}`"), "key=value or key=a,b,.."));
    };
    let key = find(name.trim(), keys)?;
    let lists = matches!(key.kind, Kind::Integers(_));
    let parts: Vec<&str> = match key.has_commas() {
        true if lists => text.split(';').collect(),
        true => vec![text],
        false => text.split(',').collect(),
    };
    let values: Vec<Value> = parts.into_iter().map(|t| key.parse(t.trim())).collect::<Result<_>>()?;
    if let Some(i) = (1..values.len()).find(|i| values[..*i].contains(&values[*i])) {
        return Err(Error::invalid(key.name, format!("{} twice", values[i]), "every value once"));
    }
    Ok((key.name.to_string(), values))
}

/// Refuses keys that `keys` lack and values that do not fit theirs.
///
/// # Errors
/// The first of them.
pub fn check_keys(table: Table, keys: &[Key]) -> Result<Table> {
    table.into_iter().map(|(name, v)| Ok((name.clone(), find(&name, keys)?.check(v)?))).collect()
}

/// Reads a TOML file whatever its keys.
///
/// # Errors
/// An unreadable file, invalid TOML.
pub fn read_table(path: &Path) -> Result<Table> {
    let text = input::text(path, input::CONFIGURATION)?;
    parse_table(path, &text)
}

/// The table that `text` holds; `path` names it in errors.
///
/// # Errors
/// Invalid TOML.
pub fn parse_table(path: &Path, text: &str) -> Result<Table> {
    let text = input::decode(path, text.as_bytes())?;
    text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(1, |s| 1 + text[..s.start].matches('\n').count());
        let mut problem = e.message().replace('\n', " ");
        // The parser does not name the key that is there twice.
        if let Some(key) = e.span().and_then(|s| text.get(s)).filter(|_| problem.contains("duplicate")) {
            let key = key.trim();
            problem += &format!(" `{key}`");
            let value =
                |l: &str| Some(l.trim().strip_prefix(key)?.trim().strip_prefix('=')?.trim().to_string());
            if let [first, second, ..] = &text.lines().filter_map(value).collect::<Vec<_>>()[..] {
                problem += &format!(", given as {first} and {second}");
            }
            problem += ": every key once";
        }
        Error::format(path, format!("line {line}: {problem}"))
    })
}
