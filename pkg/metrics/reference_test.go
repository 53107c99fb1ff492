package metrics

import (
	"testing"

	"github.com/weftnet/weft/test/reference"
)

func TestReference(t *testing.T) {
	reference.Block(t, "metrics.md", "metrics", Table())
}
