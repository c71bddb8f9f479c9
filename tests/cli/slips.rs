//! A slip in a name is told with the name that was meant, from the whole list of each kind.

use crate::support::{ok, one_line, popgrad};
use popgrad::paper::{self, causal::ood, studies};
use std::collections::BTreeSet;

/// The name with two neighbouring letters changed places, or with the last one doubled.
fn slip(name: &str) -> String {
    let mut letters: Vec<char> = name.chars().collect();
    match (1..letters.len() - 1).rev().find(|i| letters[*i] != letters[*i + 1]) {
        Some(i) => letters.swap(i, i + 1),
        None => letters.push(*letters.last().unwrap()),
    }
    letters.into_iter().collect()
}

/// Asserts that each name, misspelled in these words in place of `{}`, is suggested.
#[track_caller]
fn suggests<'a>(words: &[&str], names: impl IntoIterator<Item = &'a str>) {
    let mut tried = 0;
    for name in names {
        let wrong = slip(name);
        let args: Vec<String> = words.iter().map(|w| w.replace("{}", &wrong)).collect();
        let out = popgrad(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let err = String::from_utf8(out.stderr).unwrap();
        one_line(&err);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {err}");
        let told = [format!("`{wrong}`, did you mean `{name}`?"), format!("exists: '--{name}'")];
        assert!(told.iter().any(|t| err.contains(t)), "{args:?}: {err}");
        tried += 1;
    }
    assert!(tried > 1, "{words:?}");
}

/// The commands, as the help lists them.
fn commands() -> Vec<String> {
    let help = ok(&["--help"]);
    let lines = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    lines
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next().map(String::from))
        .collect()
}

#[test]
fn every_command_and_every_option() {
    let all = commands();
    assert!(all.len() > 14);
    suggests(&["{}"], all.iter().map(String::as_str).filter(|c| *c != "help"));
    for command in all.iter().filter(|c| *c != "help") {
        let help = ok(&[command, "--help"]);
        let options: BTreeSet<&str> = help
            .lines()
            .filter_map(|l| l.trim_start().split("--").nth(1).filter(|_| l.trim_start().starts_with('-')))
            .map(|l| l.split([' ', '=']).next().unwrap_or_default())
            .filter(|name| !name.is_empty())
            .collect();
        assert!(options.contains("json") && options.contains("quiet"), "{command}: {options:?}");
        suggests(&[command, "--{}"], options.into_iter().filter(|o| o.len() > 3));
    }
}

#[test]
fn a_preset_or_a_claim_in_the_place_of_a_command() {
    for (word, meant) in [
        ("chain", "popgrad run chain"),
        ("causal-fig9", "popgrad run causal-fig9"),
        ("leading", "popgrad verify leading"),
    ] {
        let out = popgrad(&[word]);
        let err = String::from_utf8(out.stderr).unwrap();
        one_line(&err);
        assert!(out.status.code() == Some(2) && err.contains(meant), "{err}");
    }
}

#[test]
fn every_preset_study_claim_and_kind() {
    let presets: Vec<String> = paper::presets().into_iter().map(|p| p.name).collect();
    let several: Vec<&str> = studies::named_studies().map(|s| s.name).collect();
    let names = || presets.iter().map(String::as_str);
    suggests(&["run", "{}"], names().chain(several.iter().copied()));
    suggests(&["sweep", "{}", "T=4,5"], names());
    suggests(&["figures", "--only", "{}"], several.iter().copied());
    suggests(&["verify", "{}"], popgrad::theory::CLAIMS.iter().map(|c| c.id));
    suggests(&["ood", "none", "--kinds", "{}"], ood::KINDS.iter().map(|k| k.0));
    suggests(&["list", "{}"], ["presets", "studies", "models", "tasks", "claims"]);
    let words = names().chain(popgrad::model::MODELS.iter().copied());
    suggests(&["keys", "{}"], words.chain(popgrad::config::task::TASKS.iter().copied()));
    suggests(&["run", "chain", "model={}"], popgrad::model::MODELS.iter().copied());
    suggests(&["run", "chain", "task={}"], popgrad::config::task::TASKS.iter().copied());
}

/// An option without its value is told by its name.
#[test]
fn a_missing_value() {
    for words in [&["run", "chain", "--seed"][..], &["run", "chain", "--params"], &["attend", "x", "--text"]]
    {
        let out = popgrad(words);
        let err = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{words:?}: {err}");
        assert!(err.contains("a value is required for") && err.contains(words[2]), "{words:?}: {err}");
    }
}

/// Every command's help shows how it is used.
#[test]
fn examples_in_every_help() {
    for name in commands().iter().filter(|n| *n != "help") {
        let help = ok(&[name, "--help"]);
        let examples = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{name}: {help}")).1;
        assert!(examples.contains(&format!("popgrad {name}")), "{name}: {help}");
    }
}

#[test]
fn every_key() {
    let long = popgrad::config::KEYS.iter().map(|k| k.name).filter(|k| k.len() > 2);
    for name in long {
        let told = popgrad::config::parse_overrides(&[format!("{}=1", slip(name))]).unwrap_err().to_string();
        assert!(told.contains(&format!("did you mean `{name}`?")), "{told}");
    }
    suggests(&["run", "chain", "{}=1"], ["steps", "alpha", "checkpoint_every"]);
    suggests(&["sweep", "{}=1,2"], ["alpha", "batch"]);
    suggests(&["figures", "{}=1"], ["steps", "batch"]);
    suggests(&["exact", "--quantities", "{}"], ["chi2", "ghat", "t_eff"]);
}
