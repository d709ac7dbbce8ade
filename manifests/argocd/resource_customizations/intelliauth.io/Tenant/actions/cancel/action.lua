if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["intelliauth.io/action"] = "cancel"
return obj
