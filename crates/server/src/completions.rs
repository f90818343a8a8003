//! `flotilla completions`: scripts for shells, made from the description of the commands.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::CommandFactory;

use crate::arguments::{Arguments, Shell};

/// A command by its words, and what may follow them.
struct Place {
    words: String,
    /// Word and what it is for.
    next: Vec<(String, String)>,
}

pub(crate) fn print(shell: Shell) -> anyhow::Result<()> {
    let mut command = Arguments::command();
    command.build();
    let mut places = Vec::new();
    collect(&command, "flotilla", &mut places);
    let script = match shell {
        Shell::Bash => bash(&places),
        // It understands those of bash.
        Shell::Zsh => format!("autoload -U +X bashcompinit && bashcompinit\n{}", bash(&places)),
        Shell::Fish => fish(&places),
    };
    io::stdout().write_all(script.as_bytes())?;
    Ok(())
}

fn collect(command: &clap::Command, words: &str, places: &mut Vec<Place>) {
    let mut next = Vec::new();
    for inner in command
        .get_subcommands()
        .filter(|inner| inner.get_name() != "help")
    {
        next.push((inner.get_name().to_owned(), first_line(inner.get_about())));
        collect(inner, &format!("{words} {}", inner.get_name()), places);
    }
    for flag in command.get_arguments() {
        if let Some(long) = flag.get_long() {
            next.push((format!("--{long}"), first_line(flag.get_help())));
        } else if flag.is_positional() {
            let values = flag.get_possible_values();
            next.extend(
                values
                    .iter()
                    .map(|value| (value.get_name().to_owned(), first_line(value.get_help()))),
            );
        }
    }
    places.push(Place {
        words: words.to_owned(),
        next,
    });
}

fn first_line(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    let sentence = text.lines().next().unwrap_or("").split(". ").next().unwrap_or("");
    sentence.replace(['\'', '\\', '`'], "")
}

fn bash(places: &[Place]) -> String {
    let known: Vec<String> = places.iter().map(|place| format!("'{}'", place.words)).collect();
    let mut cases = String::new();
    for Place { words, next } in places {
        let next: Vec<&str> = next.iter().map(|(word, _)| word.as_str()).collect();
        // Writing to a String has no way to fail.
        let _ = writeln!(cases, "    '{words}') words='{}' ;;", next.join(" "));
    }
    format!(
        "\
_flotilla() {{
  local place=flotilla words='' index
  for ((index = 1; index < COMP_CWORD; index++)); do
    case \"$place ${{COMP_WORDS[index]}}\" in
      {}) place=\"$place ${{COMP_WORDS[index]}}\" ;;
    esac
  done
  case \"$place\" in
{cases}  esac
  COMPREPLY=($(compgen -W \"$words\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"))
}}
complete -o default -F _flotilla flotilla
",
        known.join(" | ")
    )
}

fn fish(places: &[Place]) -> String {
    let known: Vec<String> = places.iter().map(|place| format!("'{}'", place.words)).collect();
    let mut script = format!(
        "\
function __flotilla_place
  set -l place flotilla
  for word in (commandline -opc)[2..]
    contains -- \"$place $word\" {}; and set place \"$place $word\"
  end
  test \"$place\" = \"$argv\"
end
complete -c flotilla -e
",
        known.join(" ")
    );
    for Place { words, next } in places {
        for (word, help) in next {
            let condition = format!("-n '__flotilla_place {words}'");
            let _ = match word.strip_prefix("--") {
                Some(flag) => writeln!(script, "complete -c flotilla {condition} -l {flag} -d '{help}'"),
                None => writeln!(
                    script,
                    "complete -c flotilla -f {condition} -a {word} -d '{help}'"
                ),
            };
        }
    }
    script
}
