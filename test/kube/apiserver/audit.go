package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

const auditLog = "audit.log"

// auditPolicy notes what service accounts and plain users ask for, without the
// contents. A watch is noted when it begins and when it ends.
const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  userGroups: ["system:masters", "system:nodes"]
- level: None
  users: ["system:apiserver"]
- level: Metadata
`

// Requests are those that a user has made so far, as the server's audit log has
// them; an empty user means all but the administrator. A watch is there twice
// once it has ended.
func (s *Server) Requests(user string) ([]auditv1.Event, error) {
	raw, err := os.ReadFile(s.path(auditLog))
	if err != nil {
		return nil, err
	}
	var out []auditv1.Event
	for line := range bytes.Lines(raw) {
		var e auditv1.Event
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // it is being written
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
		if user == "" || e.User.Username == user {
			out = append(out, e)
		}
	}
	return out, nil
}
