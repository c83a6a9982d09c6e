//! Names of the kernel's functions by address, out of `/proc/kallsyms`.

use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// Furthest that an address may be behind the beginning of its function, bytes: what is further away is in no function
/// that is listed.
const LONGEST_FUNCTION: u64 = 1 << 20;

/// All functions of the kernel, by address.
#[derive(Debug, Default)]
pub struct Symbols {
    /// All names, one behind the other.
    names: String,
    /// Address, and where in `names` the name begins; ascending.
    functions: Vec<(u64, usize)>,
}

impl Symbols {
    /// Of the running kernel. Empty where they may not be read, or are hidden as zeros (`kptr_restrict`).
    #[must_use]
    pub fn of_this_kernel() -> Self {
        Self::open(Path::new("/proc/kallsyms")).unwrap_or_else(|error| {
            tracing::info!("/proc/kallsyms: {error}; functions that drop packets are not named");
            Self::default()
        })
    }

    fn open(path: &Path) -> io::Result<Self> {
        Self::read(BufReader::with_capacity(64 << 10, std::fs::File::open(path)?))
    }

    /// Reads lines of "address kind name", behind which a module may be named. What is no such line, no function, or
    /// has no address is left out.
    fn read(lines: impl BufRead) -> io::Result<Self> {
        let mut symbols = Self::default();
        for line in lines.lines() {
            let line = line?;
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some("t" | "T" | "w" | "W"), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            match u64::from_str_radix(address, 16) {
                Ok(0) | Err(_) => {}
                Ok(address) => {
                    symbols.functions.push((address, symbols.names.len()));
                    symbols.names.push_str(name);
                    symbols.names.push('\n');
                }
            }
        }
        symbols.functions.sort_unstable();
        Ok(symbols)
    }

    /// The function that returns to `address`, without what the compiler has added to its name (`.constprop.0`).
    #[must_use]
    pub fn function(&self, address: u64) -> Option<&str> {
        // The address is that of the instruction behind a call: the call's own is before it.
        let address = address.checked_sub(1)?;
        let behind = self.functions.partition_point(|(start, _)| *start <= address);
        let (start, place) = *self.functions.get(behind.checked_sub(1)?)?;
        if address - start > LONGEST_FUNCTION {
            return None;
        }
        let name = self.names.get(place..)?.split('\n').next()?;
        name.split('.').find(|part| !part.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols(text: &str) -> Symbols {
        Symbols::read(text.as_bytes()).unwrap()
    }

    const SAMPLE: &str = "ffffffff81000200 T ip_rcv\nffffffff81000100 t nf_hook_slow.constprop.0\n\
                          ffffffff81000180 d not_a_function\nffffffffc0000000 t nft_do_chain\t[nf_tables]\nbroken\n";

    #[test]
    fn the_function_is_the_one_that_begins_before_the_address() {
        let symbols = symbols(SAMPLE);
        assert_eq!(symbols.function(0xffff_ffff_8100_01ff), Some("nf_hook_slow"));
        assert_eq!(symbols.function(0xffff_ffff_8100_0234), Some("ip_rcv"));
        assert_eq!(symbols.function(0xffff_ffff_c000_0010), Some("nft_do_chain"));
    }

    #[test]
    fn a_call_that_ends_a_function_belongs_to_it() {
        assert_eq!(symbols(SAMPLE).function(0xffff_ffff_8100_0200), Some("nf_hook_slow"));
    }

    #[test]
    fn an_address_far_behind_the_last_function_is_in_none() {
        let symbols = symbols(SAMPLE);
        assert_eq!(symbols.function(0xffff_ffff_8000_0000), None, "before the first");
        assert_eq!(symbols.function(0xffff_ffff_c100_0000), None);
        assert_eq!(symbols.function(0), None);
    }

    #[test]
    fn hidden_addresses_are_no_addresses() {
        let symbols = symbols("0000000000000000 T ip_rcv\n0000000000000000 T ip_forward\n");
        assert_eq!(symbols.function(1), None);
        assert_eq!(symbols.function(0xffff_ffff_8100_0200), None);
    }
}
