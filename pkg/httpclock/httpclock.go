// Package httpclock reads the clock of an HTTP server off its answers.
package httpclock

import (
	"net/http"
	"time"
)

// Skew is how far the clock of a server that answered is ahead of ours, by the
// answer's Date (RFC 9110 section 6.6.1), which tells whole seconds; false where
// there is none. asked is when we asked, took how long the answer's head took
// from there.
func Skew(answer http.Header, asked time.Time, took time.Duration) (time.Duration, bool) {
	theirs, err := http.ParseTime(answer.Get("Date"))
	if err != nil {
		return 0, false
	}
	return theirs.Sub(asked.Add(took / 2).Truncate(time.Second)), true
}
