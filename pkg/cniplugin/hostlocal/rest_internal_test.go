package hostlocal

import (
	"bytes"
	"testing"
)

func FuzzParseRest(f *testing.F) {
	f.Add([]byte("boot 0f3f7a51\n10.42.1.7 86400123\nfd00::7 5\n"))
	f.Add([]byte("10.42.1.7 -1\nboot\n\x00 9999999999999999999"))
	f.Fuzz(func(t *testing.T, b []byte) {
		once := parseRest(b)
		again := parseRest(once.encode())
		if !bytes.Equal(once.encode(), again.encode()) {
			t.Errorf("%q becomes %q", once.encode(), again.encode())
		}
		m := Machine{Boot: once.boot}
		if have := once.with(nil, m).of(m); len(have) > len(once.released) {
			t.Errorf("%v rest of %v", have, once.released)
		}
	})
}
