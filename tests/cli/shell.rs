//! Completions, tried in a real bash, and manual pages.

use crate::support::{files, ok, refused, text};
use std::process::Command;

/// What bash offers for the last of these words, with the script of `popgrad completions bash`;
/// none where there is no bash.
fn offered(script: &str, words: &[&str]) -> Option<Vec<String>> {
    let all: Vec<String> = ["popgrad"].iter().chain(words).map(|w| format!("'{w}'")).collect();
    let (last, before) = (words.len(), words[..words.len() - 1].last().unwrap_or(&"popgrad"));
    let program = format!(
        "source '{script}'; COMP_WORDS=({}); COMP_CWORD={last}; \
         \"$(complete -p popgrad | sed 's/.*-F \\([^ ]*\\).*/\\1/')\" popgrad '{}' '{before}'; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        all.join(" "),
        words[last - 1]
    );
    let out = Command::new("bash").args(["--norc", "-c", &program]).output().ok()?;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(String::from_utf8(out.stdout).unwrap().lines().map(String::from).collect())
}

#[test]
fn bash_completes_commands_options_presets_and_keys() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("popgrad.bash");
    std::fs::write(&script, ok(&["completions", "bash"])).unwrap();
    for (words, there, absent) in [
        (&["sw"][..], "sweep", "run"),
        (&["run", "ch"], "chain", "birth"),
        (&["run", "causal-fig"], "causal-fig9", "chain"),
        (&["run", "chain", "--prin"], "--print-config", "--quick"),
        (&["run", "chain", "snap"], "snapshots=", "steps="),
        (&["sweep", "chain", "alp"], "alpha=", "T="),
        (&["figures", "--only", "birth-f"], "birth-fig2", "causal-fig2"),
        (&["verify", "lead"], "leading", "diagonal"),
        (&["probe", "--model", "mem"], "memory", "transformer"),
        (&["keys", "causal_"], "causal_dag", "memory"),
        (&["run", "--color", "al"], "always", "auto"),
        (&["completions", "po"], "powershell", "bash"),
    ] {
        let Some(found) = offered(text(&script), words) else {
            eprintln!("no bash here: skipped");
            return;
        };
        assert!(found.iter().any(|f| f == there), "{words:?}: {found:?}");
        assert!(found.iter().all(|f| f != absent), "{words:?}: {found:?}");
    }
}

#[test]
fn every_shell_has_a_script_with_the_presets() {
    for shell in ["bash", "zsh", "powershell", "elvish", "fish"] {
        let script = ok(&["completions", shell]);
        assert!(script.contains("sweep") && script.contains("print-config"), "{shell}");
    }
    for shell in ["bash", "zsh"] {
        let script = ok(&["completions", shell]);
        assert!(popgrad::paper::presets().iter().all(|p| script.contains(&p.name)), "{shell}");
        assert!(popgrad::config::KEYS.iter().all(|k| script.contains(&format!("{}=", k.name))), "{shell}");
    }
    refused(&["completions", "bsh"], 2, &["shell", "bash, elvish, fish, powershell, zsh"]);
    refused(&["completions", "bash", "--json"], 2, &["json: given with `completions`", "a script"]);
    refused(&["man", "--json"], 2, &["json: given with `man`"]);
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("man1");
    let told = ok(&["man", text(&folder)]);
    let names: Vec<String> = files(&folder).iter().map(|f| f.to_str().unwrap().to_string()).collect();
    assert_eq!(told.lines().count(), names.len());
    for name in ["popgrad.1", "popgrad-run.1", "popgrad-completions.1"] {
        assert!(names.iter().any(|n| n == name), "{names:?}");
    }
    assert!(names.len() > 14, "{names:?}");
    let run = std::fs::read_to_string(folder.join("popgrad-run.1")).unwrap();
    for word in [".SH SYNOPSIS", "snapshots=log", "\\-\\-print\\-config"] {
        assert!(run.contains(word), "{word} is not in {run}");
    }
    let page = ok(&["man"]);
    assert_eq!(page, std::fs::read_to_string(folder.join("popgrad.1")).unwrap());
    // Again, over the old ones.
    ok(&["man", text(&folder)]);
}
