//! Options of several letters behind one dash, as Python's argparse has them, made into what clap reads.
//!
//! `-qp` is one option, not `-q` and `p`, where there is an option of that name; whole words only, `-qp=4` included. What
//! an option before it takes as its value is left as it is. Long options may be abbreviated while that means only one.
//! Lines copied from the product's guides have dashes that a typesetter has made of hyphens.

use std::ffi::OsString;

use clap::{Arg, Command};

/// Such options, and the long names they have here.
const WORDS: [(&str, &str); 8] = [
    ("qp", "max_queue_pairs"),
    ("dc", "drop_count"),
    ("pkt_cnt", "packet_counter"),
    ("aarfs", "aarfs_config"),
    ("dim", "dim_config"),
    ("netdim", "net_dim_config"),
    ("packed_vq", "packed_vq"),
    ("mrg_rxbuf", "mrg_rxbuf"),
];

/// The beginning of a command line, as clap reads it.
pub struct Reading<'a> {
    /// The words, with such options and abbreviated ones by their long names.
    pub words: Vec<OsString>,
    /// The command whose options may follow.
    level: &'a Command,
    /// Whether the next word is what the option before it takes.
    is_value: bool,
    /// Whether no more options can follow.
    is_over: bool,
}

/// Reads words, the program's name first. `command` is built.
pub fn read(command: &Command, words: impl IntoIterator<Item = OsString>) -> Reading<'_> {
    let mut level = command;
    let mut is_value = true; // the program's name
    let mut is_over = false;
    let mut rewritten = Vec::new();
    for word in words {
        if std::mem::take(&mut is_value) || is_over {
            rewritten.push(word);
            continue;
        }
        let word = hyphenated(word);
        let text = word.to_str().unwrap_or_default();
        let option = text.strip_prefix('-').filter(|option| !option.is_empty());
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        match (option, long_named(level, name)) {
            (Some(_), Some((long, arg))) => {
                is_value = value.is_none() && arg.get_action().takes_values();
                let value = value.map(|value| format!("={value}")).unwrap_or_default();
                rewritten.push(format!("--{long}{value}").into());
                continue;
            }
            (Some("-"), None) => is_over = true,
            (Some(letters), None) => is_value = letters_take_next(level, letters),
            (None, _) => level = level.find_subcommand(text).unwrap_or(level),
        }
        rewritten.push(word);
    }
    Reading { words: rewritten, level, is_value, is_over }
}

impl<'a> Reading<'a> {
    /// The options of several letters that can follow and begin so. Where one letter is an option of its own, and the
    /// beginning of another, it is among them.
    pub fn options(&self, begin: &str) -> Vec<(String, &'a Arg)> {
        if self.is_value || self.is_over {
            return Vec::new();
        }
        let option = |long| self.level.get_arguments().find(|arg| arg.get_long() == Some(long));
        let known = WORDS.into_iter().filter_map(|(word, long)| Some((format!("-{word}"), option(long)?)));
        let mut options: Vec<_> = known.filter(|(word, _)| word.starts_with(begin)).collect();
        let letter = begin.strip_prefix('-').filter(|_| !options.is_empty());
        let mut arguments = self.level.get_arguments();
        let alone =
            letter.and_then(|letter| arguments.find(|arg| arg.get_short().is_some_and(|it| letter == it.to_string())));
        options.splice(0..0, alone.map(|arg| (begin.to_owned(), arg)));
        options
    }
}

/// The word with a hyphen where it begins with an en dash.
fn hyphenated(word: OsString) -> OsString {
    match word.to_str().and_then(|text| text.strip_prefix('\u{2013}')) {
        Some(rest) => format!("-{rest}").into(),
        None => word,
    }
}

/// The option that `name`, with its dashes, means on this level by one of its long names.
fn long_named<'a>(level: &'a Command, name: &str) -> Option<(&'a str, &'a Arg)> {
    let longs = || level.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg)));
    let Some(name) = name.strip_prefix("--").filter(|name| !name.is_empty()) else {
        let (_, meant) = WORDS.into_iter().find(|(word, _)| name.strip_prefix('-') == Some(word))?;
        return longs().find(|(long, _)| *long == meant);
    };
    // An abbreviation means one of the command's own options before one of all commands.
    let begin =
        |is_common| longs().filter(move |(long, arg)| long.starts_with(name) && arg.is_global_set() == is_common);
    let own: Vec<_> = begin(false).collect();
    let candidates = if own.is_empty() { begin(true).collect() } else { own };
    let exact = longs().find(|(long, _)| *long == name);
    exact.or(if let [only] = candidates[..] { Some(only) } else { None })
}

/// Whether the last of `letters` takes the next word: the first that has a value takes all letters behind it.
fn letters_take_next(level: &Command, letters: &str) -> bool {
    let takes_value = |letter: char| {
        let arg = level.get_arguments().find(|arg| arg.get_short() == Some(letter));
        arg.is_some_and(|arg| arg.get_action().takes_values())
    };
    let first = letters.char_indices().find(|(_, letter)| takes_value(*letter));
    first.is_some_and(|(at, letter)| at + letter.len_utf8() == letters.len())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use proptest::prelude::*;

    use super::*;
    use crate::args::Arguments;

    fn rewritten(words: &[&str]) -> Vec<String> {
        let mut command = Arguments::command();
        command.build();
        let words = std::iter::once("virtnet").chain(words.iter().copied()).map(OsString::from);
        read(&command, words).words[1..].iter().map(|word| word.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn each_word_is_an_option_of_modify_device() {
        let device = ["modify", "-p", "0", "device"];
        for (word, long) in WORDS {
            let (apart, together) = (format!("-{word}"), format!("-{word}=1"));
            assert_eq!(rewritten(&[&device[..], &[&apart, "1"]].concat())[4..], [format!("--{long}"), "1".into()]);
            assert_eq!(rewritten(&[&device[..], &[&together]].concat())[4..], [format!("--{long}=1")]);
        }
    }

    #[test]
    fn values_and_other_words_stay() {
        for words in [
            vec!["modify", "-p", "0", "device", "-m", "-qp"],
            vec!["modify", "-p", "0", "device", "--mac", "-qp"],
            vec!["modify", "-p", "0", "device", "-qpx", "-dcx", "-dim1"],
            vec!["modify", "-p", "-qp", "device"],
            vec!["modify", "-ap", "-qp", "device"],
            vec!["query", "-p", "0", "-qp"],
            vec!["hotplug", "-dc"],
            vec!["hotplug", "--", "-qp"],
            vec!["-qp", "hotplug"],
            vec!["--run-dir", "hotplug", "-qp"],
        ] {
            assert_eq!(rewritten(&words), words);
        }
        assert_eq!(rewritten(&["hotplug", "-m=-qp", "-qp"]), ["hotplug", "-m=-qp", "--max_queue_pairs"]);
        assert_eq!(rewritten(&["hotplug", "-m0", "-qp"]), ["hotplug", "-m0", "--max_queue_pairs"]);
        assert_eq!(rewritten(&["hotplug", "--mac=0", "-qp"]), ["hotplug", "--mac=0", "--max_queue_pairs"]);
        assert_eq!(rewritten(&["modify", "device", "--spe", "-dim"])[2..], ["--speed", "-dim"]);
        assert_eq!(rewritten(&["--echo", "hotplug", "-l", "-qp"])[3], "--max_queue_pairs");
        assert_eq!(rewritten(&["--run-dir", "-qp", "hotplug", "-qp"])[1..], ["-qp", "hotplug", "--max_queue_pairs"]);
    }

    #[test]
    fn a_dash_of_a_typesetters_is_a_hyphen_where_an_option_begins() {
        assert_eq!(rewritten(&["query", "–p", "0", "–dc"])[1], "-p");
        assert_eq!(
            rewritten(&["modify", "–p", "–1", "device", "–qp", "2"])[1..],
            ["-p", "–1", "device", "--max_queue_pairs", "2"]
        );
    }

    fn offered(words: &[&str], begin: &str) -> Vec<String> {
        let mut command = Arguments::command();
        command.build();
        let read = read(&command, words.iter().map(OsString::from));
        read.options(begin).into_iter().map(|(word, _)| word).collect()
    }

    #[test]
    fn options_are_offered_where_they_can_follow() {
        let device = ["virtnet", "modify", "-p", "0", "device"];
        assert_eq!(offered(&device, "-q"), ["-q", "-qp"]);
        assert_eq!(offered(&device, "-d"), ["-d", "-dc", "-dim"]);
        assert_eq!(offered(&device, "-pk"), ["-pkt_cnt"]);
        assert_eq!(offered(&device, "-").len(), WORDS.len());
        assert_eq!(offered(&device, "").len(), WORDS.len());
        assert_eq!(offered(&[&device[..], &["-qp", "1"]].concat(), "-a"), ["-aarfs"]);
        assert_eq!(offered(&["virtnet", "hotplug"], "-q"), ["-qp"]);
        for (more, begin) in [(&["-qp"][..], "-q"), (&["--mac"], "-q"), (&["--"], "-q"), (&[], "-s"), (&[], "q")] {
            assert_eq!(offered(&[&device[..], more].concat(), begin), [""; 0], "{more:?} {begin}");
        }
        assert_eq!(offered(&["virtnet", "query"], "-q"), [""; 0]);
        assert_eq!(offered(&["virtnet"], ""), [""; 0]);
    }

    proptest! {
        #[test]
        fn any_words_are_read_without_a_panic(
            words in prop::collection::vec("(modify|device|hotplug|-qp|-dc=|--|-|--m|[-a-z=0-9é]{0,6})", 0..8)
        ) {
            let mut command = Arguments::command();
            command.build();
            let words = || std::iter::once("virtnet").chain(words.iter().map(String::as_str)).map(OsString::from);
            prop_assert_eq!(read(&command, words()).words.len(), words().count());
            let _ = Arguments::from_words(words());
        }
    }
}
