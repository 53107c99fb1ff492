// Package nft is what the tables of nftables have in common that both the CNI plugin
// and weftd write, guard and hostports.
//
// Their rules are known by comments, so that one that is lost, changed or put between
// is seen without a look at what the rules do. It owns the form of the comments. It
// refuses to know what is in a table.
package nft

import (
	"fmt"
	"strings"

	"github.com/google/nftables/userdata"
)

// Data is the user data of rule i of n, with a comment of mark in it; nft shows
// it. The mark has no space.
func Data(mark string, i, n int) []byte {
	return userdata.AppendString(nil, userdata.TypeComment, comment(mark, i, n))
}

func comment(mark string, i, n int) string { return fmt.Sprintf("%s %d/%d", mark, i+1, n) }

// Of is the mark that rules with these comments have. It is "" unless they are
// all there, in their order, and nothing else.
func Of(comments []string) string {
	mark := ""
	for i, text := range comments {
		if i == 0 {
			mark, _, _ = strings.Cut(text, " ")
		}
		if text != comment(mark, i, len(comments)) {
			return ""
		}
	}
	return mark
}
