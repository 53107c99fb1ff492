package nft_test

import (
	"testing"

	"github.com/google/nftables/userdata"

	"github.com/weftnet/weft/pkg/attachment/nft"
)

func TestOf(t *testing.T) {
	comment := func(mark string, i, n int) string {
		text, ok := userdata.GetString(nft.Data(mark, i, n), userdata.TypeComment)
		if !ok {
			t.Errorf("rule %d has no comment", i)
		}
		return text
	}
	one, two, three := comment("a", 0, 3), comment("a", 1, 3), comment("a", 2, 3)
	for name, c := range map[string]struct {
		comments []string
		want     string
	}{
		"no rule":           {nil, ""},
		"all":               {[]string{one, two, three}, "a"},
		"the last is lost":  {[]string{one, two}, ""},
		"one is lost":       {[]string{one, three}, ""},
		"in another order":  {[]string{two, one, three}, ""},
		"one is put before": {[]string{"", one, two, three}, ""},
		"one is put behind": {[]string{one, two, three, ""}, ""},
		"one of another":    {[]string{one, comment("b", 1, 3), three}, ""},
		"a mark of before":  {[]string{comment("b", 0, 1)}, "b"},
		"none of ours":      {[]string{""}, ""},
	} {
		if have := nft.Of(c.comments); have != c.want {
			t.Errorf("%s: %q, want %q", name, have, c.want)
		}
	}
}
