package backend

// FieldError is Peer's answer to a lease that it can make nothing of: which
// field is wrong, and why. A subnet.Skipped is made of it.
type FieldError struct {
	Field  string // as in subnet.Skipped: "public address", "VtepMAC", …
	Reason string // a clause: "is not a unicast address"
}

// Error is field and reason as one clause.
func (e *FieldError) Error() string { return e.Field + " " + e.Reason }
