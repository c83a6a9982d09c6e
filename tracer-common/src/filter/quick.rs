//! A table in front of the address map.

use super::{Ends, KNOWN_PLACES, known_place, words};

/// What the address map says of the addresses that have a place of their own ([`known_place`]), which are all or nearly all: a
/// look-up in the map takes as long as reading a packet's headers. An empty place is all zeros.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Quick {
    places: [Place; KNOWN_PLACES],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Place {
    address: [u64; 2],
    ends: Ends,
}

impl Quick {
    /// Without any address. Large: to be kept on the heap.
    pub const EMPTY: Self =
        Self { places: [Place { address: [0; 2], ends: Ends { a: 0, b: 0 } }; KNOWN_PLACES] };

    /// What the address map says of an address; `None` if it has to be asked.
    #[inline(always)]
    #[must_use]
    pub const fn ends_of(&self, address: &[u8; 16]) -> Option<&Ends> {
        let [low, high] = words(address);
        let place = &self.places[known_place([low, high])];
        if place.address[0] == low && place.address[1] == high { Some(&place.ends) } else { None }
    }

    /// Puts an address of the map at its place, unless another one is there.
    pub fn learn(&mut self, address: &[u8; 16], ends: Ends) {
        let address = words(address);
        let place = &mut self.places[known_place(address)];
        if place.ends == Ends::default() {
            *place = Place { address, ends };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use super::*;
    use crate::filter::mapped;

    #[test]
    fn an_address_is_told_right_or_left_to_the_map() {
        let ends = |number: usize| Ends { a: number as u64, b: 1 };
        let addresses: Vec<_> =
            (0..16_u8).flat_map(|net| (0..=255).map(move |host| mapped([10, 244, net, host]))).collect();
        let mut quick = Box::new(Quick::EMPTY);
        for (number, address) in addresses.iter().enumerate() {
            quick.learn(address, ends(number));
        }

        let told =
            |(number, address): (usize, &[u8; 16])| quick.ends_of(address).map(|told| (*told, ends(number)));
        assert!(addresses.iter().enumerate().filter_map(told).all(|(told, right)| told == right));
        // As many addresses as places: chance leaves a place to 63 of 100.
        let placed = addresses.iter().filter(|address| quick.ends_of(address).is_some()).count();
        assert!(placed * 2 > addresses.len(), "{placed}");
        let other = mapped([10, 245, 0, 1]);
        assert_eq!(quick.ends_of(&other), None);
    }
}
