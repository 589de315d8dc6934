//! Changes of inputs, from a seed: the same seed gives the same changes, on every machine.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins with a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below a bound, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.number() % bound).unwrap_or(0)
    }
}

/// Numbers at which decoders are wrong most often.
const EDGES: [u64; 14] =
    [0, 1, 2, 63, 64, 127, 128, 255, 65_535, 1 << 31, u32::MAX as u64, 1 << 50, i64::MAX as u64, u64::MAX];

/// Pieces of text that parsers look for.
const WORDS: [&str; 20] = [
    "[",
    "[[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "\\u0000",
    "=",
    ",",
    "1e999",
    "-1",
    "18446744073709551616",
    "GiB",
    "ms",
    "group",
    ">=",
    "in [",
    "\n",
    "0.0000000001",
];

/// Inputs are never made longer than this.
pub const BYTES_MAX: usize = 24 << 10;

/// Changes an input in one to four places; pieces of `other` may come into it.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        change(input, other, random);
    }
    input.truncate(BYTES_MAX);
}

fn change(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let end = at + random.below((input.len() - at).min(64) + 1);
    match random.below(12) {
        0 => flip(input, at, random),
        1 => drop(input.drain(at..end)),
        2 => input.truncate(at),
        3 => {
            let piece = input[at..end].to_vec();
            let times = 1 + random.below(8);
            splice(input, at, &piece.repeat(times));
        }
        4 => input[at..end].fill(0),
        5 => {
            let from = random.below(other.len() + 1);
            let to = from + random.below((other.len() - from).min(256) + 1);
            splice(input, at, &other[from..to]);
        }
        6 => splice(input, at, WORDS[random.below(WORDS.len())].as_bytes()),
        7 => {
            let bytes = EDGES[random.below(EDGES.len())].to_le_bytes();
            overwrite(input, at, &bytes[..1 << random.below(4)]);
        }
        8..10 => {
            // In place of the byte there: most numbers in messages are a byte long.
            let varint = varint(EDGES[random.below(EDGES.len())]);
            if at < input.len() {
                input.remove(at);
            }
            splice(input, at, &varint);
        }
        10 => {
            let to = random.below(input.len() + 1);
            let piece: Vec<u8> = input.drain(at..end).collect();
            splice(input, to.min(input.len()), &piece);
        }
        _ => {
            let byte = u8::try_from(random.below(256)).unwrap_or(0);
            splice(input, at, &[byte]);
        }
    }
}

fn flip(input: &mut [u8], at: usize, random: &mut Random) {
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

fn splice(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    drop(input.splice(at..at, piece.iter().copied()));
}

fn overwrite(input: &mut [u8], at: usize, bytes: &[u8]) {
    input[at..].iter_mut().zip(bytes).for_each(|(byte, new)| *byte = *new);
}

/// A number as protobuf writes it.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or(0);
        number >>= 7;
        bytes.push(if number > 0 { low | 0x80 } else { low });
        if number == 0 {
            return bytes;
        }
    }
}
