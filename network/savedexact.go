package network

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/weftnet/weft/pkg/cutter"
	"github.com/weftnet/weft/subnet"
)

// The file with the last snapshot is JSON as encoding/json writes it, but 10,000
// leases take that a tenth of a second in each direction. What is here writes the same
// bytes, reads that form alone, and leaves whatever it does not know to encoding/json.

// commonBackend is what most leases have: they share it.
const commonBackend = "vxlan"

// encodeSnapshot gives what json.Marshal gives.
func encodeSnapshot(s savedSnapshot) ([]byte, error) {
	leases := s.Leases
	s.Leases = nil
	frame, err := json.Marshal(s)
	if err != nil || leases == nil {
		return frame, err
	}
	at := bytes.LastIndex(frame, []byte("null")) // Doubted behind it has no text
	out := make([]byte, 0, len(frame)+256*len(leases))
	out = append(append(out, frame[:at]...), '[')
	for i := range leases {
		if i > 0 {
			out = append(out, ',')
		}
		if plain(&leases[i]) {
			out = appendLease(out, &leases[i])
			continue
		}
		one, err := json.Marshal(leases[i])
		if err != nil {
			return nil, err
		}
		out = append(out, one...)
	}
	return append(append(out, ']'), frame[at+len("null"):]...), nil
}

// plain tells whether a lease is written as it is, with quotes around its texts.
func plain(l *subnet.Lease) bool {
	const escaped = `"<>&` // the last three by encoding/json
	for _, text := range []string{l.ID, l.Node, l.Backend} {
		if !cutter.Plain([]byte(text)) || strings.ContainsAny(text, escaped) {
			return false
		}
	}
	for i := range l.Shares {
		s := &l.Shares[i]
		if !s.Subnet.IsValid() || !s.Public.IsValid() || s.Public.Zone() != "" ||
			!cutter.Plain(s.Data) || bytes.ContainsAny(s.Data, " <>&") || !json.Valid(s.Data) {
			return false
		}
	}
	return len(l.Shares) > 0 && l.Expires.IsZero()
}

func appendLease(out []byte, l *subnet.Lease) []byte {
	out = append(append(out, `{"ID":"`...), l.ID...)
	out = append(append(out, `","Node":"`...), l.Node...)
	out = append(append(out, `","Backend":"`...), l.Backend...)
	out = append(out, `","Shares":[`...)
	for i := range l.Shares {
		if i > 0 {
			out = append(out, ',')
		}
		out = l.Shares[i].Subnet.AppendTo(append(out, `{"Subnet":"`...))
		out = l.Shares[i].Public.AppendTo(append(out, `","Public":"`...))
		out = append(append(append(out, `","Data":`...), l.Shares[i].Data...), '}')
	}
	out = strconv.AppendInt(append(out, `],"Created":`...), l.Created, 10)
	out = strconv.AppendInt(append(out, `,"Revision":`...), l.Revision, 10)
	return append(append(append(out, `,"Expires":"`...), never...), `"}`...)
}

// never is time.Time{} as JSON: stores tell no end of a lease in a snapshot.
const never = "0001-01-01T00:00:00Z"

// decodeSnapshot reads what encodeSnapshot wrote; ok is false for any other form.
func decodeSnapshot(body []byte) (s savedSnapshot, ok bool) {
	if !cutter.Plain(body) {
		return s, false
	}
	c := cutter.Cutter{Rest: body, OK: true}
	c.Word(`{"Epoch":"`)
	s.Epoch = c.Text("")
	c.Word(`,"Revision":`)
	s.Revision = c.Int()
	c.Word(`,"Config":`)
	s.Config = c.Object()
	c.Word(`,"Leases":[`)
	s.Leases = make([]subnet.Lease, 0, bytes.Count(c.Rest, []byte(`{"ID":"`)))
	for more := true; more && c.OK; more = c.Maybe(",") {
		s.Leases = append(s.Leases, cutLease(&c))
	}
	c.Word("]")
	s.Doubted = c.Maybe(`,"Doubted":true`)
	c.Word("}")
	return s, c.OK && len(c.Rest) == 0
}

func cutLease(c *cutter.Cutter) (l subnet.Lease) {
	c.Word(`{"ID":"`)
	l.ID = c.Text("")
	c.Word(`,"Node":"`)
	l.Node = c.Text("")
	c.Word(`,"Backend":"`)
	l.Backend = c.Text(commonBackend)
	c.Word(`,"Shares":[`)
	for more := true; more && c.OK; more = c.Maybe(",") {
		var s subnet.Share
		c.Word(`{"Subnet":"`)
		errSubnet := s.Subnet.UnmarshalText(c.Raw())
		c.Word(`,"Public":"`)
		errPublic := s.Public.UnmarshalText(c.Raw())
		c.Word(`,"Data":`)
		s.Data = c.Object()
		c.Word("}")
		c.OK = c.OK && errSubnet == nil && errPublic == nil
		l.Shares = append(l.Shares, s)
	}
	c.Word(`],"Created":`)
	l.Created = c.Int()
	c.Word(`,"Revision":`)
	l.Revision = c.Int()
	c.Word(`,"Expires":"` + never + `"}`)
	return l
}
