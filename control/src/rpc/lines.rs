//! Framing: bytes as they come, lines as they were sent.

use super::Error;

/// The longest line that is taken, without its end.
pub const LINE_BYTES_MAX: usize = 64 << 10;

/// What has come and was not taken yet: one line too many at most.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// How many bytes are known to hold no end of a line.
    searched: usize,
    ended: bool,
}

impl Lines {
    /// How many bytes may be added. Above 0 when [`Self::take`] has found nothing.
    pub fn room(&self) -> usize {
        LINE_BYTES_MAX + 1 - self.bytes.len()
    }

    /// Adds what has come, [`Self::room`] at most.
    pub fn add(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "no more is read than there is room for");
        self.bytes.extend_from_slice(bytes);
    }

    /// Nothing more will come. What has come after the last line's end is a line.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether nothing more will come.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether part of a line is here, and the rest is waited for.
    pub fn is_partial(&self) -> bool {
        !self.bytes.is_empty() && !self.is_ready()
    }

    /// Whether [`Self::take`] may find something.
    pub fn is_ready(&self) -> bool {
        self.ended || self.searched < self.bytes.len()
    }

    /// The next line. After one that is too long there are no more.
    pub fn take(&mut self) -> Option<Result<Vec<u8>, Error>> {
        let found = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n');
        let line = match found {
            Some(at) => {
                let mut line: Vec<_> = self.bytes.drain(..=self.searched + at).collect();
                line.pop();
                line
            }
            None if self.room() == 0 => {
                *self = Self { ended: true, ..Self::default() };
                return Some(Err(Error::line_too_long()));
            }
            None if self.ended && !self.bytes.is_empty() => std::mem::take(&mut self.bytes),
            None => {
                self.searched = self.bytes.len();
                return None;
            }
        };
        self.searched = 0;
        Some(Ok(line))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All lines of `bytes`, added in pieces that end where `ends` says.
    fn lines_of(bytes: &[u8], ends: &[usize]) -> Vec<Result<Vec<u8>, Error>> {
        let mut ends: Vec<_> = ends.iter().map(|end| end % (bytes.len() + 1)).chain([bytes.len()]).collect();
        ends.sort_unstable();
        let (mut lines, mut taken, mut start) = (Lines::default(), Vec::new(), 0);
        for end in ends {
            while start < end && !lines.has_ended() {
                let count = lines.room().min(end - start);
                lines.add(&bytes[start..start + count]);
                start += count;
                taken.extend(std::iter::from_fn(|| lines.take()));
            }
        }
        lines.end();
        taken.extend(std::iter::from_fn(|| lines.take()));
        taken
    }

    #[test]
    fn a_line_may_have_64_kib_and_no_byte_more() {
        let mut bytes = vec![b'x'; LINE_BYTES_MAX];
        bytes.push(b'\n');
        assert_eq!(lines_of(&bytes, &[]), [Ok(vec![b'x'; LINE_BYTES_MAX])]);
        bytes.insert(0, b'x');
        bytes.extend(b"{}\n");
        assert_eq!(lines_of(&bytes, &[]), [Err(Error::line_too_long())], "and nothing after it is a line");
    }

    #[test]
    fn what_was_looked_at_is_waited_for() {
        let mut lines = Lines::default();
        assert!(!lines.is_ready() && !lines.is_partial());
        lines.add(b"a\nb");
        assert_eq!(lines.take(), Some(Ok(b"a".to_vec())));
        assert!(lines.is_ready() && !lines.is_partial(), "it was not looked at");
        assert_eq!(lines.take(), None);
        assert!(!lines.is_ready() && lines.is_partial());
        lines.end();
        assert_eq!(lines.take(), Some(Ok(b"b".to_vec())));
        assert_eq!(lines.take(), None);
    }

    proptest! {
        #[test]
        fn where_bytes_are_split_does_not_matter(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..400),
            ends in proptest::collection::vec(any::<usize>(), 0..20),
        ) {
            let expected: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n')
                .map(|line| Ok(line.strip_suffix(b"\n").unwrap_or(line).to_vec()))
                .collect();
            prop_assert_eq!(lines_of(&bytes, &ends), expected);
        }
    }
}
