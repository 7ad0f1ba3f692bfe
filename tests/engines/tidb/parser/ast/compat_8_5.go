package ast

import (
	"github.com/pingcap/tidb/pkg/parser/auth"
	"github.com/pingcap/tidb/pkg/parser/format"
)

// Names of functions that the server uses and the parser no longer has.
const (
	MasterPosWait = "master_pos_wait"
	DesDecrypt    = "des_decrypt"
	DesEncrypt    = "des_encrypt"
	Encrypt       = "encrypt"
	OldPassword   = "old_password"
)

// IndexKeyTypeFullText is the old spelling.
const IndexKeyTypeFullText = IndexKeyTypeFulltext

// ChangeStmt is a statement that no grammar rule makes.
type ChangeStmt struct {
	stmtNode
	NodeType, State, NodeID string
}

// Restore implements Node.
func (*ChangeStmt) Restore(*format.RestoreCtx) error { return nil }

// Accept implements Node.
func (n *ChangeStmt) Accept(v Visitor) (Node, bool) {
	node, _ := v.Enter(n)
	return v.Leave(node)
}

// IsReadOnly reports whether a statement writes nothing, not even a global variable.
func IsReadOnly(node Node) bool { return isReadOnly(node, true) }

// EncodedPassword returns the stored form of a native password. The tests use only the empty password.
func (n *UserSpec) EncodedPassword() (string, bool) {
	switch {
	case n.AuthOpt == nil:
		return "", true
	case n.AuthOpt.ByAuthString:
		return auth.EncodePassword(n.AuthOpt.AuthString), true
	default:
		return n.AuthOpt.HashString, true
	}
}
