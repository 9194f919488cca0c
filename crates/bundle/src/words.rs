//! A bundle's id as eight words, to be compared by telephone or on paper.
//!
//! The list is BIP 39's English one (2 048 words, told apart by their first four letters; MIT). Eight words are 88
//! bits of the id: nobody finds another bundle that has the same.

use std::sync::OnceLock;

use artifact::Digest;

const LIST: &str = include_str!("words.txt");

/// The eight words of a bundle's id, separated by spaces.
pub fn words(id: &Digest) -> String {
    static WORDS: OnceLock<Vec<&'static str>> = OnceLock::new();
    let list = WORDS.get_or_init(|| LIST.lines().collect());
    let mut bits = 0_u32;
    let mut have = 0;
    let mut spoken = Vec::with_capacity(8);
    for byte in id.as_bytes() {
        bits = bits << 8 | u32::from(*byte);
        have += 8;
        if have >= 11 && spoken.len() < 8 {
            have -= 11;
            let number = (bits >> have & 0x7ff) as usize;
            spoken.push(list.get(number).copied().unwrap_or("?"));
            bits &= (1 << have) - 1;
        }
    }
    spoken.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_words_that_follow_the_bits() {
        assert_eq!(LIST.lines().count(), 2048);
        let zero = words(&Digest::sha256([0; 32]));
        assert_eq!(zero, ["abandon"; 8].join(" "));
        assert_eq!(words(&Digest::sha256([255; 32])), ["zoo"; 8].join(" "));
        let mut one = [0; 32];
        one[1] = 0b0010_0000;
        assert_eq!(words(&Digest::sha256(one)), zero.replacen("abandon", "ability", 1));
    }
}
