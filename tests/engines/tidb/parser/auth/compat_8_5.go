package auth

// GetUserAndHostName returns the name and host that a user logged in as, or else gave.
func GetUserAndHostName(user *UserIdentity) (name, host string) {
	if user == nil {
		return "", ""
	}
	if user.AuthUsername != "" || user.AuthHostname != "" {
		return user.AuthUsername, user.AuthHostname
	}
	return user.Username, user.Hostname
}
