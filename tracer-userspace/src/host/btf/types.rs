//! All types of a BTF at hand, for those that name others.

use super::{
    Btf, KIND_CONST, KIND_ENUM, KIND_ENUM64, KIND_FUNC_PROTO, KIND_POINTER, KIND_RESTRICT, KIND_STRUCT,
    KIND_TYPE_TAG, KIND_TYPEDEF, KIND_UNION, KIND_VOLATILE, Type, read_u32,
};

/// How deep types are followed: deeper than anybody nests them, so that a circle ends.
const DEEPEST: usize = 16;

/// See the module.
pub(in crate::host) struct Types<'a> {
    btf: &'a Btf<'a>,
    /// By id; type 0 is void and not written down.
    all: Vec<Type<'a>>,
    unknown_kind: Option<u32>,
}

impl<'a> Types<'a> {
    pub(in crate::host) fn of(btf: &'a Btf<'a>) -> Self {
        let all: Vec<Type<'a>> = btf.types().collect();
        let read: usize = all.iter().filter_map(|found| found.length()).sum();
        let unknown_kind = btf.types.get(read..).and_then(Type::read).map(|found| found.kind);
        Self { btf, all, unknown_kind }
    }

    /// The first kind of type whose length is not known here: a newer kernel's. Nothing behind it can be found, so
    /// what is not found may be there.
    pub(in crate::host) fn unknown_kind(&self) -> Option<u32> {
        self.unknown_kind
    }

    /// Which argument of its programs, from 0, a tracepoint gives as this enumeration.
    pub(in crate::host) fn tracepoint_argument(&self, tracepoint: &str, enumeration: &str) -> Option<usize> {
        self.argument(tracepoint, |argument| {
            matches!(argument.kind, KIND_ENUM | KIND_ENUM64) && self.is_named(&argument, enumeration)
        })
    }

    /// Which argument of its programs, from 0, a tracepoint gives as a pointer to this structure.
    pub(in crate::host) fn tracepoint_pointer(&self, tracepoint: &str, structure: &str) -> Option<usize> {
        self.argument(tracepoint, |argument| {
            let to = (argument.kind == KIND_POINTER).then(|| self.unwrapped(argument.inner)).flatten();
            to.is_some_and(|to| to.kind == KIND_STRUCT && self.is_named(&to, structure))
        })
    }

    /// The first argument of a tracepoint's programs that is so. The kernel describes tracepoint `x` by a typedef
    /// `btf_trace_x` of a pointer to a function, whose first argument is the tracepoint's own.
    fn argument(&self, tracepoint: &str, is: impl Fn(Type<'a>) -> bool) -> Option<usize> {
        let typedef = self.named(&format!("btf_trace_{tracepoint}"), &[KIND_TYPEDEF])?;
        let pointer = self.by_id(typedef.inner).filter(|found| found.kind == KIND_POINTER)?;
        let function = self.by_id(pointer.inner).filter(|found| found.kind == KIND_FUNC_PROTO)?;
        let place = (1..function.members).find(|place| {
            let argument = read_u32(function.bytes, 12 + 8 * place + 4).and_then(|id| self.unwrapped(id));
            argument.is_some_and(&is)
        })?;
        Some(place - 1)
    }

    /// Bytes from the beginning of a structure to a member, by the member's name; a longer path goes on in the
    /// structure that the member is. Members of structures and unions without a name count as their parent's. `None`
    /// where there is no such member, or it does not begin at a byte.
    pub(in crate::host) fn member_offset(&self, structure: &str, path: &[&str]) -> Option<u32> {
        let (last, parents) = path.split_last()?;
        let mut within = self.named(structure, &[KIND_STRUCT, KIND_UNION])?;
        let mut bits = 0_u32;
        for parent in parents {
            let (at, of) = self.member(&within, parent, DEEPEST)?;
            bits = bits.checked_add(at)?;
            within = self.unwrapped(of).filter(Type::has_members)?;
        }
        let (at, _) = self.member(&within, last, DEEPEST)?;
        let bits = bits.checked_add(at)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Numbers and names of an enumeration of 32 bits.
    pub(in crate::host) fn enumerators(&self, enumeration: &str) -> Option<Vec<(u32, String)>> {
        let found = self.named(enumeration, &[KIND_ENUM])?;
        let one = |place: usize| {
            let at = 12 + 8 * place;
            let name = self.text(read_u32(found.bytes, at)?)?;
            Some((read_u32(found.bytes, at + 4)?, String::from_utf8_lossy(name).into_owned()))
        };
        (0..found.members).map(one).collect()
    }

    /// A member's offset in bits and its type.
    fn member(&self, within: &Type<'a>, name: &str, depth: usize) -> Option<(u32, u32)> {
        let depth = depth.checked_sub(1)?;
        (0..within.members).find_map(|place| {
            let (text, of, offset) = within.member(place)?;
            if text == 0 {
                let inner = self.unwrapped(of).filter(Type::has_members)?;
                let (at, of) = self.member(&inner, name, depth)?;
                return Some((offset.checked_add(at)?, of));
            }
            (self.text(text)? == name.as_bytes()).then_some((offset, of))
        })
    }

    fn named(&self, name: &str, kinds: &[u32]) -> Option<Type<'a>> {
        self.all.iter().find(|found| kinds.contains(&found.kind) && self.is_named(found, name)).copied()
    }

    fn by_id(&self, id: u32) -> Option<Type<'a>> {
        self.all.get(usize::try_from(id).ok()?.checked_sub(1)?).copied()
    }

    /// The type without what only qualifies it or gives it another name.
    fn unwrapped(&self, id: u32) -> Option<Type<'a>> {
        const WRAPPERS: [u32; 5] = [KIND_TYPEDEF, KIND_VOLATILE, KIND_CONST, KIND_RESTRICT, KIND_TYPE_TAG];
        let mut found = self.by_id(id)?;
        for _ in 0..DEEPEST {
            if !WRAPPERS.contains(&found.kind) {
                return Some(found);
            }
            found = self.by_id(found.inner)?;
        }
        None
    }

    fn is_named(&self, found: &Type<'a>, name: &str) -> bool {
        self.btf.name(*found) == Some(name.as_bytes())
    }

    fn text(&self, place: u32) -> Option<&'a [u8]> {
        self.btf.text(usize::try_from(place).ok()?)
    }
}

impl Type<'_> {
    fn has_members(&self) -> bool {
        matches!(self.kind, KIND_STRUCT | KIND_UNION)
    }

    /// Of a structure or union: a member's name (its place in the strings), type, and offset in bits.
    fn member(&self, place: usize) -> Option<(u32, u32, u32)> {
        let at = 12 + 12 * place;
        let offset = read_u32(self.bytes, at + 8)?;
        // With bit fields, the upper byte is a member's size.
        let offset = if self.flag { offset & 0x00ff_ffff } else { offset };
        Some((read_u32(self.bytes, at)?, read_u32(self.bytes, at + 4)?, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{btf_of, sample};
    use super::*;

    #[test]
    fn a_tracepoints_enumeration_is_found_behind_const_and_not_at_another_one() {
        let bytes = sample();
        let btf = Btf::read(&bytes).unwrap();
        let types = Types::of(&btf);
        assert_eq!(types.tracepoint_argument("kfree_skb", "skb_drop_reason"), Some(0));
        assert_eq!(types.tracepoint_argument("consume_skb", "skb_drop_reason"), None);
        assert_eq!(types.tracepoint_argument("kfree_skb", "pair"), None);
        assert_eq!(types.tracepoint_argument("no_such", "skb_drop_reason"), None);
    }

    #[test]
    fn a_tracepoints_pointer_to_a_structure_is_found_and_the_structure_itself_is_none() {
        // 1 struct sock; 2 const 1; 3 pointer to 2; 4 prototype of (3, 1, 3), the first its own; 5 pointer; 6 typedef.
        let info = |kind: u32, members: u32| kind << 24 | members;
        let types = [
            &[1, info(4, 0), 0][..],
            &[0, info(10, 0), 1],
            &[0, info(2, 0), 2],
            &[0, info(13, 3), 0, 0, 3, 0, 1, 0, 3],
            &[0, info(2, 0), 4],
            &[6, info(8, 0), 5],
        ];
        let bytes = btf_of(b"\0sock\0btf_trace_kfree_skb\0", &types.concat());
        let btf = Btf::read(&bytes).unwrap();
        let types = Types::of(&btf);
        assert_eq!(types.tracepoint_pointer("kfree_skb", "sock"), Some(1));
        assert_eq!(types.tracepoint_pointer("kfree_skb", "sk_buff"), None);
    }

    const STRINGS: &[u8] = b"\0int\0outer\0inner\0first\0nested\0last\0bits\0colour\0RED\0GREEN\0";

    fn name(name: &str) -> u32 {
        let text = [b"\0", name.as_bytes(), b"\0"].concat();
        1 + STRINGS.windows(text.len()).position(|window| window == text).unwrap() as u32
    }

    /// 1 int; 2 inner { first at 32 }; 3 { union without name { last at 0 } at 64 }; 4 const 2; 5 outer { nested at 128
    /// of 4; without name at 256 of 3; bits at 3 }; 6 enum colour.
    fn structures(more: &[u32]) -> Vec<u8> {
        let info = |kind: u32, members: u32| kind << 24 | members;
        let with_bit_fields = 1 << 31;
        let types = [
            &[name("int"), info(1, 0), 4, 0x0100_0020][..],
            &[name("inner"), info(4, 1), 8, name("first"), 1, 32],
            &[0, info(5, 2), 8, name("int"), 1, 0, name("last"), 1, 64],
            &[0, info(10, 0), 2],
            &[name("outer"), info(4, 3) | with_bit_fields, 64],
            &[name("nested"), 4, 128, 0, 3, 256, name("bits"), 1, 3 << 24 | 515],
            &[name("colour"), info(6, 2), 4, name("RED"), 0, name("GREEN"), 7],
            more,
        ];
        btf_of(STRINGS, &types.concat())
    }

    #[test]
    fn a_member_is_found_through_named_and_nameless_structures() {
        let bytes = structures(&[]);
        let btf = Btf::read(&bytes).unwrap();
        let types = Types::of(&btf);
        assert_eq!(types.member_offset("inner", &["first"]), Some(4));
        assert_eq!(types.member_offset("outer", &["nested"]), Some(16));
        assert_eq!(types.member_offset("outer", &["nested", "first"]), Some(20));
        assert_eq!(types.member_offset("outer", &["last"]), Some(40));
    }

    #[test]
    fn a_member_that_is_not_there_or_begins_inside_a_byte_has_no_offset() {
        let bytes = structures(&[]);
        let btf = Btf::read(&bytes).unwrap();
        let types = Types::of(&btf);
        assert_eq!(types.member_offset("outer", &["bits"]), None);
        assert_eq!(types.member_offset("outer", &["first"]), None);
        assert_eq!(types.member_offset("outer", &["nested", "last"]), None);
        assert_eq!(types.member_offset("colour", &["RED"]), None);
        assert_eq!(types.member_offset("outer", &[]), None);
    }

    #[test]
    fn an_enumeration_gives_its_numbers_and_names() {
        let bytes = structures(&[]);
        let btf = Btf::read(&bytes).unwrap();
        let types = Types::of(&btf);
        let colours = types.enumerators("colour").unwrap();
        assert_eq!(colours, [(0, "RED".to_owned()), (7, "GREEN".to_owned())]);
        assert_eq!(types.enumerators("outer"), None);
    }

    #[test]
    fn a_kind_of_a_newer_kernel_is_named_and_hides_only_what_is_behind() {
        let newer = [0, 31 << 24, 0, name("inner"), 4 << 24, 0];
        let bytes = structures(&newer);
        let btf = Btf::read(&bytes).unwrap();
        let types = Types::of(&btf);
        assert_eq!(types.unknown_kind(), Some(31));
        assert_eq!(types.member_offset("outer", &["last"]), Some(40));

        let bytes = structures(&[]);
        let btf = Btf::read(&bytes).unwrap();
        assert_eq!(Types::of(&btf).unknown_kind(), None);
    }

    #[test]
    fn a_structure_that_contains_itself_ends_the_search() {
        let bytes = btf_of(b"\0loop\0", &[1, 4 << 24 | 1, 8, 0, 1, 0]);
        let btf = Btf::read(&bytes).unwrap();
        assert_eq!(Types::of(&btf).member_offset("loop", &["x"]), None);
    }
}
