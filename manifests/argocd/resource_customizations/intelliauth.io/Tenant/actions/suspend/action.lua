obj.spec.desiredState = "Suspended"
return obj
