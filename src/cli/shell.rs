//! `popgrad completions` and `popgrad man`: for the user's shell, from the same declarations that
//! parse the arguments.

use super::output::wants_json;
use super::{show, tell};
use crate::config::{self, task::TASKS};
use crate::model::MODELS;
use crate::paper::{self, causal::ood, studies};
use crate::report::files::write_bytes_atomic;
use crate::theory::CLAIMS;
use crate::{Error, Result};
use clap::builder::PossibleValuesParser;
use clap::{Arg, Args, Command};
use clap_complete::Shell;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `popgrad completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

pub(super) const AFTER_HELP: &str = "\
Presets, studies, keys, claims and models are completed as well. Print it anew after an upgrade.

Examples:
  popgrad completions bash > ~/.local/share/bash-completion/completions/popgrad
  popgrad completions zsh > ~/.zfunc/_popgrad          with fpath+=~/.zfunc before compinit
  popgrad completions fish > ~/.config/fish/completions/popgrad.fish
  popgrad completions powershell >> $PROFILE
  popgrad completions elvish >> ~/.config/elvish/rc.elv";

/// Arguments of `popgrad man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Folder for popgrad.1 and a page for each command; created if need be, and files of these
    /// names in it are replaced [default: popgrad.1 on stdout].
    dir: Option<PathBuf>,
}

pub(super) const AFTER_HELP_OF_MAN: &str = "\
Examples:
  popgrad man | man -l -
  popgrad man ~/.local/share/man/man1";

/// What bash gets beside clap's own script: no space after `alpha=`, where the value goes on.
const BASH: &str = r#"
_popgrad_keys() {
    _popgrad "$@"
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _popgrad_keys -o bashdefault -o default popgrad
"#;

/// Prints the script of a shell.
pub(super) fn completions(args: &CompletionsArgs, command: Command) -> Result<()> {
    refuse_json("completions", "a script")?;
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut with_names(command), "popgrad", &mut script);
    if args.shell == Shell::Bash {
        script.extend(BASH.bytes());
    }
    tell(&String::from_utf8_lossy(&script))
}

fn refuse_json(field: &str, what: &str) -> Result<()> {
    if wants_json() {
        return Err(Error::invalid("json", format!("given with `{field}`"), format!("none: it is {what}")));
    }
    Ok(())
}

/// The arguments with the names that each may be. Of the parser this is not: there a name that is
/// none is told with the nearest one, and keys and presets share a place.
fn with_names(command: Command) -> Command {
    let names = |of: Vec<String>| {
        move |a: Arg| {
            a.value_parser(PossibleValuesParser::new(of.iter().map(|n| intern(n)).collect::<Vec<_>>()))
        }
    };
    let owned = |of: &[&str]| of.iter().map(|n| n.to_string()).collect::<Vec<_>>();
    let keys = || config::KEYS.iter().map(|k| format!("{}=", k.name)).collect::<Vec<_>>();
    let single = || paper::presets().into_iter().map(|p| p.name).collect::<Vec<_>>();
    let named = || studies::named_studies().map(|s| s.name.to_string()).collect::<Vec<_>>();
    let mut all = single();
    all.extend(named());
    all.sort();
    all.dedup();
    let mut words = single();
    words.extend(owned(MODELS));
    words.extend(owned(TASKS));
    let single_or_task = [single(), owned(TASKS)].concat();
    let seeds = [keys(), vec!["seeds=".to_string()]].concat();
    let claims: Vec<String> = CLAIMS.iter().map(|c| c.id.to_string()).collect();
    let kinds: Vec<String> = ood::KINDS.iter().map(|(name, _)| name.to_string()).collect();
    let model = || owned(MODELS);
    command
        .mut_subcommand("run", |c| c.mut_arg("preset", names(all)).mut_arg("overrides", names(seeds.clone())))
        .mut_subcommand("sweep", |c| c.mut_arg("preset", names(single())).mut_arg("keys", names(seeds)))
        .mut_subcommand("figures", |c| c.mut_arg("only", names(named())).mut_arg("overrides", names(keys())))
        .mut_subcommand("scaling", |c| c.mut_arg("overrides", names(keys())))
        .mut_subcommand("grad", |c| c.mut_arg("model", names(model())).mut_arg("keys", names(keys())))
        .mut_subcommand("exact", |c| c.mut_arg("model", names(model())).mut_arg("keys", names(keys())))
        .mut_subcommand("probe", |c| c.mut_arg("model", names(model())).mut_arg("keys", names(keys())))
        .mut_subcommand("sample", |c| {
            c.mut_arg("what", names(single_or_task)).mut_arg("words", names(keys()))
        })
        .mut_subcommand("ablate", |c| c.mut_arg("sort", names(owned(&["model", "effect"]))))
        .mut_subcommand("discover", |c| c.mut_arg("score", names(owned(&["gradient", "chi2"]))))
        .mut_subcommand("ood", |c| c.mut_arg("kinds", names(kinds)))
        .mut_subcommand("verify", |c| c.mut_arg("claims", names(claims)))
        .mut_subcommand("list", |c| c.mut_arg("what", names(owned(&super::list::KINDS))))
        .mut_subcommand("keys", |c| c.mut_arg("words", names(words)))
}

/// The parser keeps names for as long as the process lives.
fn intern(name: &str) -> &'static str {
    Box::leak(name.to_string().into_boxed_str())
}

/// Prints or writes the pages.
pub(super) fn man(args: &ManArgs, mut command: Command) -> Result<()> {
    command.build();
    let page = |of: &Command| -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let written = clap_mangen::Man::new(of.clone()).render(&mut text);
        written.map_err(|e| Error::io("man", "cannot render", e)).map(|()| text)
    };
    let Some(dir) = &args.dir else {
        refuse_json("man", "a page, unless it has a folder")?;
        return tell(&String::from_utf8_lossy(&page(&command)?));
    };
    super::output::outside_runs("dir", &dir.join("popgrad.1"))?;
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, "cannot create folder", e))?;
    let mut files = Vec::new();
    let own = command.get_subcommands().filter(|c| c.get_name() != "help" && !c.is_hide_set());
    for of in std::iter::once(&command).chain(own) {
        let name = of.get_display_name().unwrap_or_else(|| of.get_name()).to_string();
        let path = dir.join(format!("{name}.1"));
        write_bytes_atomic(&path, &page(&of.clone().name(intern(&name)))?)?;
        files.push(path.display().to_string());
    }
    show(&Pages { files: files.clone() }, || files.iter().map(|f| format!("{f}\n")).collect())
}

#[derive(Serialize)]
struct Pages {
    files: Vec<String>,
}
