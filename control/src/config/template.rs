//! Paths with room for what tells functions apart.

use std::path::PathBuf;

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer};

use crate::class::Class;

/// A path with `{pf}`, `{vf}` and `{vuid}` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Pf,
    Vf,
    Vuid,
}

impl Template {
    /// Where a class's sockets are by default.
    pub fn of(class: Class) -> Self {
        let text = |text: &str| Part::Text(text.to_owned());
        match class {
            Class::StaticPf | Class::HotplugPf => Self(vec![text("pf"), Part::Pf, text(".sock")]),
            Class::Vf => Self(vec![text("pf"), Part::Pf, text("vf"), Part::Vf, text(".sock")]),
        }
    }

    /// The path of one function; `vf` is `None` for a PF.
    pub fn path(&self, pf: u16, vf: Option<u16>, vuid: &str) -> PathBuf {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Pf => pf.to_string(),
            Part::Vf => vf.map_or_else(String::new, |vf| vf.to_string()),
            Part::Vuid => vuid.to_owned(),
        };
        self.0.iter().map(part).collect::<String>().into()
    }

    /// The folder that all its paths are in, with the slash behind it; none where that is not the same for all.
    pub fn folder(&self) -> Option<&str> {
        let (first, rest) = self.0.split_first()?;
        let is_folder = |part: &Part| matches!(part, Part::Text(text) if text.contains('/'));
        match first {
            _ if rest.iter().any(is_folder) => None,
            Part::Text(text) => Some(&text[..text.rfind('/').map_or(0, |at| at + 1)]),
            _ => Some(""),
        }
    }

    /// Whether `path` is that of some function.
    pub fn matches(&self, path: &str) -> bool {
        fn fits(parts: &[Part], text: &str) -> bool {
            let (part, rest) = match parts {
                [] => return text.is_empty(),
                [Part::Text(first), rest @ ..] => {
                    return text.strip_prefix(first.as_str()).is_some_and(|text| fits(rest, text));
                }
                [part, rest @ ..] => (part, rest),
            };
            let is_its = |b: u8| match part {
                Part::Vuid => b.is_ascii_alphanumeric() || b == b'-' || b == b'_',
                _ => b.is_ascii_digit(),
            };
            let most = text.bytes().take_while(|b| is_its(*b)).count();
            (1..=most).any(|end| fits(rest, &text[end..]))
        }
        fits(&self.0, path)
    }

    /// What keeps it from giving each function of `class` a path of its own.
    pub(super) fn fault(&self, class: Class) -> Option<&'static str> {
        let has = |part: Part| self.0.contains(&part);
        // "{pf}{vf}", "{pf}1{vf}": 1 and 12 would look like 11 and 2.
        let runs_together = |parts: &[Part]| match parts {
            [first, Part::Text(text), last] => {
                !matches!(first, Part::Text(_))
                    && !matches!(last, Part::Text(_))
                    && text.bytes().all(|b| b.is_ascii_digit())
            }
            _ => false,
        };
        let touches = |parts: &[Part]| !parts.iter().any(|part| matches!(part, Part::Text(_)));
        if self.0.windows(2).any(touches) || self.0.windows(3).any(runs_together) {
            return Some("something that is not a digit between {pf}, {vf} and {vuid}");
        }
        let (is_vf, by_pf, by_vf) = (class == Class::Vf, has(Part::Pf), has(Part::Vf));
        match (is_vf, has(Part::Vuid)) {
            (false, _) if by_vf => Some("no {vf}: that is for VFs only"),
            (false, false) if !by_pf => Some("{pf} or {vuid}"),
            (true, false) if !by_pf || !by_vf => Some("{vuid}, or both {pf} and {vf}"),
            _ => None,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            let (name, behind) = behind.split_once('}')?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(match name {
                "pf" => Part::Pf,
                "vf" => Part::Vf,
                "vuid" => Part::Vuid,
                _ => return None,
            });
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let is_plain = |part: &Part| !matches!(part, Part::Text(text) if text.contains(['}', '\0']));
        (!parts.is_empty() && parts.iter().all(is_plain)).then_some(Self(parts))
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = String::deserialize(deserializer)?;
        Self::parse(&found).ok_or_else(|| {
            let allowed = "a path with {pf}, {vf} or {vuid} in it, such as \"pf{pf}vf{vf}.sock\"";
            D::Error::invalid_value(Unexpected::Str(&found), &allowed)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn paths_of_functions_are_told_from_others() {
        for (template, folder, its, others) in [
            (
                "pf{pf}.sock",
                Some(""),
                &["pf0.sock", "pf61.sock"][..],
                &["pf.sock", "pf1vf0.sock", "pf0.sock2", "/pf0.sock", "pfé.sock"][..],
            ),
            ("a/b{pf}vf{vf}", Some("a/"), &["a/b1vf12"], &["a/b1vf", "b1vf1", "a/bxvf1"]),
            ("/x/{vuid}-1", Some("/x/"), &["/x/S-VF3-1"], &["/x/-1", "/x/S/T-1"]),
            ("{pf}", Some(""), &["7"], &["", "virtnet.sock"]),
            ("d{pf}/s", None, &["d1/s"], &["d1"]),
        ] {
            let template = Template::parse(template).unwrap();
            assert_eq!(template.folder(), folder);
            assert!(its.iter().all(|path| template.matches(path)), "{template:?}");
            assert!(!others.iter().any(|path| template.matches(path)), "{template:?}");
        }
    }

    #[test]
    fn each_function_has_its_path() {
        let path = |text: &str, vf| Template::parse(text).unwrap().path(11, vf, "S-VF3").display().to_string();
        assert_eq!(path("/run/{vuid}/pf{pf}_{vf}.sock", Some(2)), "/run/S-VF3/pf11_2.sock");
        assert_eq!(path("{pf}", None), "11");
        assert_eq!(path("plain", None), "plain");
        for (class, text) in
            [(Class::StaticPf, "pf{pf}.sock"), (Class::HotplugPf, "pf{pf}.sock"), (Class::Vf, "pf{pf}vf{vf}.sock")]
        {
            assert_eq!(Template::parse(text).unwrap(), Template::of(class));
            assert_eq!(Template::of(class).fault(class), None);
        }
    }

    #[test]
    fn what_is_not_a_template_is_refused() {
        for text in ["", "{", "}", "{}", "{pf", "pf}", "{PF}", "{pf }", "{{pf}}", "{pf}}", "a\0{pf}", "{pf}{vg}"] {
            assert_eq!(Template::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_template_without_fault_tells_all_functions_apart() {
        let texts = [
            "x",
            "{pf}",
            "{vf}",
            "{vuid}",
            "{pf}{vf}",
            "{pf}1{vf}",
            "{pf}x{vf}",
            "{vf}/{pf}",
            "{pf}x{vf}2{vuid}",
            "{vuid}{pf}",
            "a{pf}b{pf}",
            "{pf}.{vf}.{vf}",
        ];
        let mut good = 0;
        for (text, class) in texts.iter().flat_map(|text| Class::ALL.map(|class| (text, class))) {
            let template = Template::parse(text).unwrap();
            let pfs = 0..130u16;
            let ids: Vec<_> = match class {
                Class::Vf => pfs.flat_map(|pf| (0..130).map(move |vf| (pf, Some(vf)))).collect(),
                _ => pfs.map(|pf| (pf, None)).collect(),
            };
            let vuid = |(pf, vf): (u16, Option<u16>)| {
                format!("D0F{pf}{}", vf.map_or_else(String::new, |vf| format!("VF{vf}")))
            };
            let paths: HashSet<_> = ids.iter().map(|&(pf, vf)| template.path(pf, vf, &vuid((pf, vf)))).collect();
            if template.fault(class).is_none() {
                good += 1;
                assert_eq!(paths.len(), ids.len(), "{text} {class:?}");
            }
        }
        assert_eq!(good, 10);
    }
}
