package subnet

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
)

// Mine finds the claimant's own lease among those of the store. It is ours if
//
//   - the state file says so: ID and Created are those of the claim, whatever
//     has become of our public address; or
//   - it announces our public address, in every family that it and the claim
//     have, and one of its subnets is in Claim.Previous; or
//   - it announces our public address, and its backend data is ours too, a key
//     or MAC that no other node has.
//
// The public address alone proves nothing: the node that had it before us may
// be alive elsewhere, and a second cluster behind the same NAT has it as well.
func Mine(c Claim, leases []Lease) (Lease, bool) {
	proofs := []func(Lease) bool{
		func(l Lease) bool { return c.ID != "" && c.Created != 0 && l.ID == c.ID && l.Created == c.Created },
		func(l Lease) bool { return samePublic(c.Shares, l.Shares) && previous(c.Previous, l.Shares) },
		func(l Lease) bool { return samePublic(c.Shares, l.Shares) && sameData(c.Shares, l.Shares) },
	}
	for _, proof := range proofs {
		if at := slices.IndexFunc(leases, proof); at >= 0 {
			return leases[at], true
		}
	}
	return Lease{}, false
}

// Compatible reports whether a lease is one that Allocate could have given out
// under cfg: one share per network, of its length, from its Min to its Max.
func Compatible(cfg Config, l Lease) bool {
	if len(l.Shares) != len(cfg.Networks) {
		return false
	}
	for _, n := range cfg.Networks {
		if !slices.ContainsFunc(l.Shares, func(s Share) bool { return n.fits(s.Subnet) }) {
			return false
		}
	}
	return true
}

// common calls same for each pair of shares of one family; it is true if there
// is a pair and same holds for each.
func common(ours, theirs []Share, same func(a, b Share) bool) bool {
	found := false
	for _, a := range ours {
		for _, b := range theirs {
			if a.Public.BitLen() != b.Public.BitLen() {
				continue
			}
			if !same(a, b) {
				return false
			}
			found = true
		}
	}
	return found
}

func samePublic(ours, theirs []Share) bool {
	return common(ours, theirs, func(a, b Share) bool { return a.Public.IsValid() && a.Public == b.Public })
}

func sameData(ours, theirs []Share) bool {
	return common(ours, theirs, func(a, b Share) bool { return sameJSON(a.Data, b.Data) })
}

func previous(subnets []netip.Prefix, shares []Share) bool {
	return slices.ContainsFunc(shares, func(s Share) bool {
		return s.Subnet.IsValid() && slices.Contains(subnets, s.Subnet)
	})
}

// sameJSON compares what two documents say. Nothing, null and {} are what every
// node of a backend without data announces; they are not the same as anything.
func sameJSON(a, b json.RawMessage) bool {
	left, right := decode(a), decode(b)
	if fields, ok := left.(map[string]any); left == nil || ok && len(fields) == 0 {
		return false
	}
	return reflect.DeepEqual(left, right)
}

// decode gives the document's value, numbers as they are written: as float64,
// large ones would be equal that differ. nil: it is null or not JSON.
func decode(raw json.RawMessage) any {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var value any
	if dec.Decode(&value) != nil {
		return nil
	}
	return value
}
