package auth

// GetUserAndHostName returns the name and host of a login, or else those that the client sent.
func GetUserAndHostName(user *UserIdentity) (name, host string) {
	if user == nil {
		return "", ""
	}
	if user.AuthUsername != "" || user.AuthHostname != "" {
		return user.AuthUsername, user.AuthHostname
	}
	return user.Username, user.Hostname
}
