package firewall

import (
	"net/netip"
	"slices"
)

// Result is what became of a packet in one hook.
type Result struct {
	Packet  Packet // as it leaves the hook: translated, marked
	Dropped string // the rule or policy that dropped it; "" for none
	// Rules are the chains and rules that spoke: those that accepted, jumped on
	// the way to a translation, translated or masqueraded.
	Rules      []string
	DNAT       bool
	Others     []netip.AddrPort // further addresses that a translation may choose
	Masquerade bool             // the source becomes that of the outgoing interface
	SNAT       netip.Addr
	Unread     []string // rules that can't be judged, and were passed over
}

// Walk sends a packet through a hook.
func (r Ruleset) Walk(h Hook, p Packet) Result {
	w := walk{set: r, res: Result{Packet: p}}
	translated := false
	for _, c := range r.base(h, p.Dst.Is6()) {
		if c.Type == "nat" && translated {
			continue // the first that translates a flow is the last that is asked (nf_nat_core)
		}
		end := w.chain(c, 0)
		if end == ended && w.res.Dropped != "" {
			break
		}
		if end == fell && c.Drops {
			w.res.Dropped = "policy of chain " + c.String()
			break
		}
		translated = translated || w.translated
	}
	return w.res
}

type walk struct {
	set        Ruleset
	res        Result
	path       []string // jumps that lead to where we are
	translated bool
}

// outcome of a chain or a rule.
type outcome byte

const (
	fell  outcome = iota // nothing was decided
	left                 // return
	ended                // accepted, dropped or translated
)

// maxJumps is the kernel's own limit (NFT_JUMP_STACK_SIZE).
const maxJumps = 16

func (w *walk) chain(c Chain, depth int) outcome {
	if depth > maxJumps {
		return fell
	}
	for i, rule := range c.Rules {
		hit, chance := w.matches(c, rule)
		if !hit {
			continue
		}
		before := w.copy()
		out := w.do(c, rule, depth)
		if out == ended && chance && w.res.DNAT {
			rest := c
			rest.Rules = c.Rules[i+1:]
			before.chain(rest, depth)
			w.add(before.res)
		}
		if out == ended {
			return out
		}
		if out == left {
			return fell
		}
	}
	return fell
}

func (w *walk) matches(c Chain, rule Rule) (hit, chance bool) {
	doubt := len(rule.Unread) > 0
	for _, cond := range rule.Conds {
		chance = chance || cond.Chance
		switch w.set.meets(c, cond, w.res.Packet) {
		case no:
			return false, chance
		case unknown:
			doubt = true
		}
	}
	if doubt && rule.decides() {
		w.res.Unread = append(w.res.Unread, c.String()+": "+rule.String())
		return false, chance
	}
	return !doubt, chance
}

// decides tells whether it matters if the rule matches.
func (r Rule) decides() bool {
	for _, a := range r.Acts {
		if a.Kind != Other {
			return true
		}
	}
	return false
}

func (w *walk) do(c Chain, rule Rule, depth int) outcome {
	for _, a := range rule.Acts {
		if out := w.act(c, rule, a, depth); out != fell {
			return out
		}
	}
	return fell
}

func (w *walk) act(c Chain, rule Rule, a Act, depth int) outcome {
	switch a.Kind {
	case Mark:
		w.res.Packet.Mark = w.res.Packet.Mark&^a.Mask ^ a.Mark
	case Return:
		return left
	case Accept:
		w.note(c, rule)
		return ended
	case Drop, Reject:
		w.res.Dropped = c.String() + ": " + rule.String()
		return ended
	case Jump, Goto:
		return w.jump(c, rule, a, depth)
	case VMap:
		return w.vmap(c, rule, a, depth)
	case DNAT:
		return w.dnat(c, rule, a)
	case SNAT, Masquerade:
		w.note(c, rule)
		w.res.Masquerade, w.res.SNAT, w.translated = a.Kind == Masquerade, a.Addr, true
		return ended
	}
	return fell
}

func (w *walk) jump(c Chain, rule Rule, a Act, depth int) outcome {
	next, ok := w.set.chain(c, a.Chain)
	if !ok {
		w.res.Unread = append(w.res.Unread, c.String()+": "+rule.String())
		return fell
	}
	w.path = append(w.path, c.String()+": "+rule.String())
	out := w.chain(next, depth+1)
	w.path = w.path[:len(w.path)-1]
	if out == fell && a.Kind == Goto {
		return left
	}
	return out
}

func (w *walk) vmap(c Chain, rule Rule, a Act, depth int) outcome {
	if a.Random {
		return w.anyOf(c, rule, a, depth)
	}
	e, ans := w.set.find(c, a.Set, a.Fields, w.res.Packet)
	switch {
	case ans == unknown || ans == yes && e.Act == nil:
		w.res.Unread = append(w.res.Unread, c.String()+": "+rule.String())
		return fell
	case ans == no:
		return fell
	}
	return w.act(c, rule, *e.Act, depth)
}

// anyOf follows the first element, and tells where the others would have led.
func (w *walk) anyOf(c Chain, rule Rule, a Act, depth int) outcome {
	set, ok := w.set.Sets[SetKey{c.Family, c.Table, a.Set}]
	if !ok || len(set.Elems) == 0 || set.Elems[0].Act == nil {
		w.res.Unread = append(w.res.Unread, c.String()+": "+rule.String())
		return fell
	}
	before := w.copy()
	out := w.act(c, rule, *set.Elems[0].Act, depth)
	for _, e := range set.Elems[1:] {
		if e.Act == nil {
			continue
		}
		try := before.copy()
		try.act(c, rule, *e.Act, depth)
		w.add(try.res)
	}
	return out
}

// copy is for trying what else could have happened.
func (w *walk) copy() walk {
	c := *w
	c.path, c.res.Rules, c.res.Unread = slices.Clone(w.path), slices.Clone(w.res.Rules), nil
	return c
}

func (w *walk) add(r Result) {
	if r.DNAT {
		w.res.Others = append(w.res.Others, netip.AddrPortFrom(r.Packet.Dst, r.Packet.DstPort))
		w.res.Others = append(w.res.Others, r.Others...)
	}
}

// dnat changes the destination to what the rule or its map says.
func (w *walk) dnat(c Chain, rule Rule, a Act) outcome {
	addr, port := a.Addr, a.Port
	if a.Set != "" {
		e, ans := w.set.find(c, a.Set, a.Fields, w.res.Packet)
		switch ans {
		case no:
			return fell // the map has nothing for it: the rule does not match (nft_lookup)
		case unknown:
			w.res.Unread = append(w.res.Unread, c.String()+": "+rule.String())
			return fell
		}
		addr, port = endpoint(e.Data, w.res.Packet.Dst.Is6())
	}
	w.note(c, rule)
	w.res.DNAT, w.translated = true, true
	if addr.IsValid() {
		w.res.Packet.Dst, w.res.Packet.ToHost = addr, false
	}
	if port != 0 {
		w.res.Packet.DstPort = port
	}
	return ended
}

// endpoint reads the data of a map: an address, and a port in the next word.
func endpoint(data []byte, ipv6 bool) (addr netip.Addr, port uint16) {
	size := 4
	if ipv6 {
		size = 16
	}
	if len(data) < size {
		return addr, 0
	}
	addr, _ = netip.AddrFromSlice(data[:size])
	if len(data) >= size+2 {
		port = uint16(data[size])<<8 | uint16(data[size+1])
	}
	return addr, port
}

// note keeps the rule, and the jumps by which it was reached.
func (w *walk) note(c Chain, rule Rule) {
	w.res.Rules = append(w.res.Rules, w.path...)
	w.res.Rules = append(w.res.Rules, c.String()+": "+rule.String())
}
