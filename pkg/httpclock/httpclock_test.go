package httpclock_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/httpclock"
)

func TestSkew(t *testing.T) {
	asked := time.Date(2026, 11, 21, 12, 0, 0, 900_000_000, time.UTC)
	for date, want := range map[string]time.Duration{
		"Sat, 21 Nov 2026 12:00:00 GMT": 0, // of the second in which it was asked
		"Sat, 21 Nov 2026 12:05:00 GMT": 5 * time.Minute,
		"Sat, 21 Nov 2026 11:59:50 GMT": -10 * time.Second,
	} {
		have, ok := httpclock.Skew(http.Header{"Date": {date}}, asked, 100*time.Millisecond)
		if !ok || have != want {
			t.Errorf("%s: have %s, %t, want %s", date, have, ok, want)
		}
	}
	for _, none := range []http.Header{{}, {"Date": {"yesterday"}}} {
		if have, ok := httpclock.Skew(none, asked, 0); ok {
			t.Errorf("%v: have %s", none, have)
		}
	}
}
